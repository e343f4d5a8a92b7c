# Everything runs from .venv, which any target makes on its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1
MINUTES ?= 5
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lint types fixtures bench torture clean

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fogbook needs Python 3.11 or later: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test]'
	@touch $@

run: $(VENV)/installed
	@exec $(BIN)/python -m ops.cli up $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: $(VENV)/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	@# ruff's S102 and S608 look at exec and SQL already, each exception with its reason beside it.
	$(BIN)/python -m bandit --quiet --recursive --severity-level medium --skip B102,B608 domain commands projections queries workers ops --exclude ops/bench

types: $(VENV)/installed
	$(BIN)/python -m mypy

fixtures: $(VENV)/installed
	$(BIN)/python -m ops.catalogue --fixtures

bench: $(VENV)/installed
	$(BIN)/python -m ops.cli bench $(ARGS)

torture: $(VENV)/installed
	$(BIN)/python -m pytest -m torture tests/torture --seed $(SEED) --minutes $(MINUTES) --timeout=0 -s $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
