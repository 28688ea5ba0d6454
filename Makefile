# make up     everything on this machine: http://localhost:8080   (PORT=, WORKERS=, MAX_WORKERS=, POLICY=, DATA=, DATABASE_URL=)
# make test   make check, then every test    (JOBS=2: two files at a time, PYTEST_ARGS="-k name", CHROMIUM=path|none)
# make test-hunt  finds tests that fail only now and then: SELECT=tests/system RUNS=3 MINUTES=30, under load:
#             STRESS=2 busy processes, STALL=1.5 seconds of standstill at times; logs of failures in .cache/hunt
# make check  lint, types, and which module may import which
# make lock   pins and hashes anew after a change in pyproject.toml (UPGRADE=1: newest of everything)
# make test-gpu, make bench-gpu PART=…   on a GPU machine, by its own Python and torch: GPU_PYTHON=python3
# make bench-policies   every policy on every trace, simulated: docs/results/policies.md (an hour of one core; RESULTS=folder)
# make bench-live       a small trace, simulated and then played: docs/results/live.md (eight minutes of a quiet machine)
# make clean  removes the environment and the caches, never the data
# Each sets up what it needs by itself.                           (PYTHON=python3.12, TORCH="torch==… --index-url …")

PORT ?= 8080
WORKERS ?= 1
MAX_WORKERS ?=
POLICY ?=
DATA ?= data
DATABASE_URL ?=
PYTHON ?=
TORCH ?=
CHROMIUM ?=
JOBS ?= 1
PYTEST_ARGS ?=
UPGRADE ?=
SELECT ?= tests/system
RUNS ?= 3
STRESS ?= 2
STALL ?= 0
MINUTES ?= 30
GPU_PYTHON ?= python3
PART ?= forward
OUT ?= bench-gpu
RESULTS ?= docs/results

export PYTHON TORCH CHROMIUM
# Some images set it; then each of the many processes here would compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

.PHONY: help up test test-hunt check test-gpu bench-gpu bench-policies bench-live lock clean venv runtime chromium
.NOTPARALLEL:

help:
	@sed -n 's/^# //p' Makefile

up: runtime
	@exec $(BIN)/turboserve up --port '$(PORT)' --workers '$(WORKERS)' --data '$(DATA)' \
		$(if $(DATABASE_URL),--database-url '$(DATABASE_URL)') $(if $(MAX_WORKERS),--max-workers '$(MAX_WORKERS)') \
		$(if $(POLICY),--policy '$(POLICY)')

test: venv chromium check
	@exec $(BIN)/python -m pytest -n '$(JOBS)' --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-hunt: venv chromium
	@exec $(BIN)/python -m tests.hunt --runs '$(RUNS)' --stress '$(STRESS)' --stall-s '$(STALL)' --minutes '$(MINUTES)' $(SELECT)

# Nothing is installed: these run where a machine's torch was built for its GPU. PART=all runs every part.
test-gpu:
	@PYTHONPATH=".$${PYTHONPATH:+:$$PYTHONPATH}" exec $(GPU_PYTHON) -m pytest -q -c tests/gpu/pytest.ini tests/gpu

bench-gpu:
	@PYTHONPATH=".$${PYTHONPATH:+:$$PYTHONPATH}" exec $(GPU_PYTHON) -m $(if $(filter all,$(PART)),bench.gpu.all --minutes 20,bench.gpu $(PART)) --out '$(OUT)'

check: venv
	@echo "check: ruff" && $(BIN)/ruff check -q . && $(BIN)/ruff format -q --check .
	@echo "check: mypy" && $(BIN)/mypy --no-error-summary
	@echo "check: imports" && out=$$($(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter 2>&1) || { echo "$$out"; exit 1; }

runtime:
	@sh deploy/setup/environment.sh runtime

venv:
	@sh deploy/setup/environment.sh dev

chromium:
	@sh deploy/setup/chromium.sh

UV_LOCK := UV_CACHE_DIR=.cache/uv $(BIN)/uv pip compile -q --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-annotate --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
UV_LOCK_PROJECT := $(UV_LOCK) pyproject.toml requirements/unlisted.in --overrides requirements/without-torch.txt

bench-policies: venv
	@exec $(BIN)/python -m bench.policies --out '$(RESULTS)'

bench-live: venv
	@exec $(BIN)/python -m bench.live --out '$(RESULTS)'

lock: venv
	@echo "lock: requirements/" && $(UV_LOCK) requirements/bootstrap.in -o requirements/bootstrap.lock
	@$(UV_LOCK_PROJECT) --extra all -o requirements/runtime.lock
	@$(UV_LOCK_PROJECT) --extra dev -c requirements/runtime.lock -o requirements/dev.lock

clean:
	@rm -rf .venv .cache dist
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
