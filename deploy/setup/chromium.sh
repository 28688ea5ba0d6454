#!/bin/sh
# Sees to a Chromium for the browser tests: the one that CHROMIUM names, one on the path, or, for root on Debian, the package.
# Without one and without root it says that the browser tests will be skipped. CHROMIUM=none skips them on purpose.
set -eu
cd "$(dirname "$0")/../.."
if [ "${CHROMIUM:-}" = none ]; then echo "set-up: CHROMIUM=none, browser tests will be skipped"; exit 0; fi
for name in ${CHROMIUM:-chromium chromium-browser google-chrome}; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
if [ -n "${CHROMIUM:-}" ]; then echo "set-up: CHROMIUM=$CHROMIUM is no program" >&2; exit 1; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "set-up: no Chromium here and no right to install it: browser tests will be skipped"
    exit 0
fi
sh deploy/setup/debian.sh chromium || {
    echo "set-up: Chromium could not be installed; install it by hand, or leave the browser tests out: make test CHROMIUM=none" >&2
    exit 1
}
