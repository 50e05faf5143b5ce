# Every target makes .venv and installs what it needs. Nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
# Options of the two passes of `make test`, for `make coverage`.
FIRST :=
SECOND :=

.PHONY: install bench performance test coverage lint lowest format clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'needs Python 3.11 or newer: make PYTHON=python3.12'; exit 2; }
	@test ! -e $(BIN)/python || test "$$($(BIN)/python -V)" = "$$($(PYTHON) -V)" || rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[quick]'
	@touch $@

# What tests and linters need beside: not for those who only run benchmarks (Triton alone takes 1 GB).
$(DEV): $(STAMP)
	$(BIN)/pip install --quiet --editable '.[quick,dev]'
	@touch $@

# ARGS passes options on: make bench ARGS="--set seeds=[0,1,2] --out runs/three-seeds"
bench: $(STAMP)
	$(BIN)/resnet-bk bench quick $(ARGS)

# Speed, memory and accuracy beside baselines, and the page that quotes them (docs/performance.md). On an idle machine.
performance: $(STAMP)
	$(BIN)/python -m benchmarks.ops
	$(BIN)/python -m benchmarks.models
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.pages.performance

# The second pass runs the numba kernels uncompiled, on tiny inputs: there an index out of bounds is an error.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(FIRST) $(ARGS)
	OMP_NUM_THREADS=1 NUMBA_DISABLE_JIT=1 $(BIN)/pytest -q -n 2 -m kernels $(SECOND) tests/ops

# The same, and which lines of src it ran. Kernels have theirs from the second pass. Takes a third longer.
coverage:
	$(MAKE) test FIRST='--cov --cov-report=' SECOND='--cov --cov-append --cov-report=term:skip-covered --cov-fail-under=90'

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The tests with the oldest releases that pyproject.toml admits, in an environment of their own; `make test` has the newest.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --upgrade pip uv
	.venv-lowest/bin/uv pip compile --quiet --resolution lowest-direct --extra quick --extra dev pyproject.toml --output-file .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --requirement .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --no-deps --editable .
	@touch .venv-lowest/.installed .venv-lowest/.installed-dev
	$(MAKE) test VENV=.venv-lowest

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
