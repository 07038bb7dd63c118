# Everything runs in the project's own environment, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench chaos simulate clean

demo: $(VENV)/.demo
	$(BIN)/python deploy/demo.py

test: $(VENV)/.dev
	$(BIN)/python tests/services.py --install
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache
	CI=$${CI:-true} $(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

# make bench BENCH="--quick"; "--help" tells what else.
bench: $(VENV)/.dev
	$(BIN)/python tests/services.py --install
	$(BIN)/python -m tests.benchmarks $(BENCH)

# make chaos CHAOS="--seed 2 --broker docker --mode buffered"; "--help" tells what else.
chaos: $(VENV)/.dev
	$(BIN)/python tests/services.py --install
	$(BIN)/python -m tests.chaos $(CHAOS)

simulate: $(VENV)/.dev
	$(BIN)/python -m tests.simulation $(SIMULATE)

clean:
	rm -rf $(VENV) build dist *.egg-info demo-run

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Warren needs Python 3.11 or newer: run 'make PYTHON=python3.12 …' with yours." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv) and run make again." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@ $(VENV)/.demo
