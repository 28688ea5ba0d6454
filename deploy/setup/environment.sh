#!/bin/sh
# Makes or mends .venv. `make` calls it before every target; when nothing changed it returns at once.
#   usage: environment.sh runtime|dev       (environment: PYTHON, TORCH, both optional)
# Each step leaves a stamp, named after what it installed, that says from which content; a step whose stamp agrees is skipped.
set -eu
kind=$1
cd "$(dirname "$0")/../.."
root=$PWD
venv=$root/.venv
stamps=$venv/stamps
log=$root/.cache/setup.log
export UV_CACHE_DIR="$root/.cache/uv" PIP_CACHE_DIR="$root/.cache/pip" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME || true

say() { echo "set-up: $*"; }
die() { echo "set-up: $*" >&2; exit 1; }
content() { cat "$@" | cksum; }
stamped() { [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s' "$2" >"$stamps/$1"; }

# Runs a command with its output kept in the log; a failure shows the log's end.
quietly() {
    "$@" >"$log" 2>&1 </dev/null && return 0
    tail -n 15 "$log" >&2
    return 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Two runs of make in one checkout take turns.
take_turns() {
    mkdir -p "$root/.cache"
    command -v flock >/dev/null || return 0
    exec 9>"$root/.cache/setup.lock"
    flock -w 1200 9 || die "another make has been setting up this checkout for 20 minutes; stop it, then try again"
}

find_python() {
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$python" >/dev/null && new_enough "$python"; then return 0; fi
    done
    die "no Python 3.11 or newer found (looked for: ${PYTHON:-python3, python3.14 … python3.11}); install one, or name it: make up PYTHON=/path/to/python3"
}

# Debian splits venv from its Python; root gets the missing part installed, others are told its name.
need_venv_module() {
    "$python" -c 'import venv, ensurepip' 2>/dev/null && return 0
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    sh "$root/deploy/setup/debian.sh" "$package" || die "$python lacks venv; install Debian's package $package, or name another: make up PYTHON=/path/to/python3"
}

make_venv() {
    if stamped venv "$root" && new_enough "$venv/bin/python"; then
        [ -z "${PYTHON:-}" ] && return 0
        [ "$("$PYTHON" -V 2>&1)" = "$("$venv/bin/python" -V)" ] && return 0
    fi
    find_python
    need_venv_module
    say "a Python environment in .venv ($("$python" -V))"
    rm -rf "$venv"
    quietly "$python" -m venv "$venv" || die "$python could not make .venv; is there room on the disk, and may you write here?"
    mkdir -p "$stamps"
    stamp venv "$root"
}

install_locked() {
    python=$venv/bin/python
    uv=$venv/bin/uv
    [ -x "$uv" ] || quietly "$python" -m pip install -q --require-hashes -r requirements/bootstrap.lock || say "no uv to be had: pip does it instead, slower"
    if [ -x "$uv" ]; then
        quietly "$uv" pip install -q --python "$python" --require-hashes -r "$1" && return 0
        say "uv could not install $1: pip tries, slower"
    fi
    quietly "$python" -m pip install -q --require-hashes -r "$1" || die "installing $1 failed (see above; the whole of it: .cache/setup.log)"
}

# A developer's environment holds all of the runtime's, so the runtime's lock needs no second look there.
install_packages() {
    lock=requirements/$kind.lock
    if [ "$kind" = runtime ] && [ -e "$stamps/dev" ]; then kind=dev lock=requirements/dev.lock; fi
    now=$(content "$lock" requirements/bootstrap.lock)
    stamped "$kind" "$now" && return 0
    say "$(grep -c '^[a-z]' "$lock") packages from $lock"
    install_locked "$lock"
    stamp "$kind" "$now"
}

# By pip, never uv: pip takes the build its configuration offers, uv a CUDA build of several GB.
install_torch() {
    now=$(content requirements/torch.txt)
    if [ -z "${TORCH:-}" ]; then
        [ "$(sed -n 1p "$stamps/torch" 2>/dev/null)" = "$now" ] && return 0
    else
        [ "$(cat "$stamps/torch" 2>/dev/null)" = "$now
$TORCH" ] && return 0
    fi
    say "${TORCH:-$(grep '^torch' requirements/torch.txt)} (the largest part: 200 MB or, with CUDA, several GB)"
    [ ! -e "$stamps/torch" ] || quietly "$venv/bin/python" -m pip uninstall -q -y torch
    rm -f "$stamps/torch"
    # shellcheck disable=SC2086  # TORCH is a requirement and options of pip
    quietly "$venv/bin/python" -m pip install -q ${TORCH:--r requirements/torch.txt} || die "installing torch failed (see above; the whole of it: .cache/setup.log)"
    stamp torch "$now
${TORCH:-}"
}

# Installed in place: editing a file is enough, and `turboserve` is a command of the environment.
install_project() {
    now=$(content pyproject.toml)
    stamped project "$now" && return 0
    say "turboserve itself, in place"
    quietly "$venv/bin/python" -m pip install -q --no-deps --no-build-isolation --no-index -e . || die "installing the project failed (see above)"
    stamp project "$now"
}

take_turns
make_venv
install_packages
install_torch
install_project
