# Two commands do all the set-up on a fresh machine: `make quickstart` and `make test`.
#
#   TORCH    which torch to install first, e.g. a CPU or CUDA build
#   PYTHON   the interpreter to make .venv with (3.11 or newer)

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin

# Idle OpenMP threads that spin are costly where cores are few or shared.
export OMP_WAIT_POLICY ?= passive

.PHONY: help quickstart test check lint types layers pytest slow format benchmarks docs wheel clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(VENV)/installed  ## make .venv, install genrec, run the whole road on a synthetic catalogue
	$(BIN)/genrec quickstart

test: check pytest  ## make .venv, then lint, types, layers and the default test suite

check: lint types layers  ## lint, types and layers alone

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/pyright

layers: $(VENV)/installed-dev
	$(BIN)/lint-imports

pytest: $(VENV)/installed-dev  ## the default test suite (minutes: under 3 on two cores)
	OMP_NUM_THREADS=1 POLARS_MAX_THREADS=2 $(BIN)/python -m pytest -n 2

slow: $(VENV)/installed-dev  ## the tests marked slow, and the random ones with all their examples
	GENREC_EXAMPLES=all $(BIN)/python -m pytest -m "slow or hypothesis"

format: $(VENV)/installed-dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(VENV)/installed-dev  ## speed and memory as ratios to a reference (minutes)
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

docs: $(VENV)/installed-docs  ## build the documentation into site/ (search needs a server: python -m http.server -d site)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

wheel: $(VENV)/installed-dev  ## build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## remove .venv and caches; data and runs stay
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "genrec needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
