# Every target makes .venv and installs what it needs first, so any of them may come first on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1

ROOMS := benchmarks contracts examples faults hardware_profiles objectives reports search spaces

.PHONY: install demo test test-slow lint

install: .venv/installed

.venv/installed: requirements.lock constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/python examples/inspection/demo.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# One process a room: engines that the tests of one load do not meet those of another.
test: lint
	set -e; for room in $(ROOMS); do $(BIN)/python -m pytest -q -m "not slow" tests/$$room; done

test-slow: install
	$(BIN)/python -m pytest -q -m slow
