# Everything here needs only make and python3 (3.11 to 3.13): the first target that needs it sets up .venv, once.
#
#   make demo   [DATA=DIR] [DEMO_ONCE=1]   start a service, fill it, replay lookups, print a table, serve on
#   make test   [ARGS="-k name"] [JOBS=0]  run the tests, in two processes; in this one
#   make gpu-check [ARGS="--only smoke"]   check and measure the hot tier on a GPU; see docs/operations.md
#   make bench  [ARGS="--only NAME"]       compare with peers; without ARGS it also writes docs/benchmarks.md
#   make lint   make types   make setup   make clean

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
JOBS ?= 2

export DATA DEMO_ONCE

.PHONY: demo test gpu-check lint types bench setup clean

demo: setup
	@$(RUN) -m loadtest demo

test: setup
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# Without setting anything up: a GPU machine has its own Python, with CuPy for its driver.
gpu-check:
	@$(PYTHON) -m tests.gpucheck $(ARGS)

lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/lint-imports

types: setup
	$(VENV)/bin/mypy

bench: setup
	@$(RUN) -m loadtest compare --json bench.json $(ARGS)
	@test -n "$(ARGS)" || $(RUN) -m loadtest docs bench.json

setup: $(READY)

# The stamp is written last, so that a set-up that was cut off is done again.
$(READY): pyproject.toml clients/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and \
	  "embcache needs Python 3.11 to 3.13, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip' || { echo "venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e ./clients -e '.[dev]'
	@touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
