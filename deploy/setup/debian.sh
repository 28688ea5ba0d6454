#!/bin/sh
# Installs Debian packages for a set-up that runs as root; exits non-zero where that isn't possible or failed.
#   usage: debian.sh PACKAGE…
set -eu
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 1
export DEBIAN_FRONTEND=noninteractive
options="-qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300"
log=.cache/apt.log
mkdir -p .cache
echo "set-up: Debian's $*"
for attempt in 1 2 3; do
    # shellcheck disable=SC2086  # options are words
    if apt-get $options update >"$log" 2>&1 </dev/null && apt-get $options install -y --no-install-recommends "$@" >>"$log" 2>&1 </dev/null; then
        exit 0
    fi
    [ "$attempt" = 3 ] || sleep "$attempt"
done
tail -n 15 "$log" >&2
exit 1
