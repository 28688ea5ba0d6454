# For a machine where nothing can be fetched: what travels with the tree goes to a folder and on the paths.
#
#   . bench/gpu/setup.sh FOLDER      FOLDER: what bench/gpu/pack.sh made, or plain wheels
#
# Everything else (torch, numpy, httpx, …) is expected to be there. Where the machine's cuda-core is too old for
# nccl4py, the one that travels is taken; without either, sessions move over TCP and the worker's log says so.

unpack() { # by tar where there is an xz for it, else by Python
    tar -xJf "$1" -C "$2" 2>/dev/null ||
        python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="tar")' "$1" "$2"
}

site=$(mktemp -d)
for wheel in "$1"/*.whl; do
    [ -e "$wheel" ] && python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheel"
done
[ -e "$1/site.tar.xz" ] && unpack "$1/site.tar.xz" "$site"
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PATH="$site/bin:$PATH" PYTHONUNBUFFERED=1
# The tree itself counts as installed.
mkdir -p "$site/turboserve-0.1.0.dist-info"
printf 'Metadata-Version: 2.1\nName: turboserve\nVersion: 0.1.0\n' >"$site/turboserve-0.1.0.dist-info/METADATA"
chmod +x "$site"/bin/* 2>/dev/null
if ! python3 -c 'import nccl.core' 2>/dev/null && [ -e "$1/cuda_core.tar.xz" ]; then
    unpack "$1/cuda_core.tar.xz" "$site"
fi
# Else every process of the system compiles all of it anew.
unset PYTHONDONTWRITEBYTECODE
python3 -m compileall -q -j 0 "$site" bench services shared turboserve >/dev/null 2>&1
python3 -c 'import nccl.core; print("nccl4py", nccl.core.get_version())' || echo "no NCCL between processes here"
python3 - <<'CHECK'
import aiosqlite, av, litestar, msgspec, nats, sqlalchemy, uvicorn, websockets  # noqa
from services.autoscaler import main as autoscaler
from services.gateway import main as gateway
from services.placement import main as placement
from services.worker import main as worker
print("services: can be imported")
CHECK
nats-server --version
