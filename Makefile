# Two commands do everything on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-with
# A second process per core gains nothing on nets this small: one torch thread each, two workers.
THEMES := $(sort $(notdir $(basename $(shell grep -l '^from themes import' demos/*.py))))
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo demos test browser lint types format bench docs clean

help:  ## this list
	@sed -nE 's/^([a-z]+):.*##(.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(INSTALLED)-demos  ## train the healthy MNIST net, then every story: the sickness, the finding, the cure
	$(BIN)/python demos/mnist.py --story all

demos: demo  ## all of that, and each theme: runs side by side, with a table and a picture
	set -e; for theme in $(THEMES); do $(BIN)/python demos/$$theme.py; done

test: browser lint types  ## lint, types and all tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

browser:  ## chromium, in which the tests open reports: Debian's, where there is none
	@sh tests/browser/install.sh

lint: $(INSTALLED)-dev  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)-dev  ## mypy, strict
	$(BIN)/mypy

format: $(INSTALLED)-dev  ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)-demos  ## seconds per step: a bare Trainer against each callback and the suite
	$(ONE_THREAD) $(BIN)/python benchmarks/bench.py

docs: $(INSTALLED)-docs  ## build the documentation into site/, without the network: `python -m http.server -d site` shows it
	NO_MKDOCS_2_WARNING=1 $(ONE_THREAD) $(BIN)/mkdocs build --strict

clean:  ## remove the environment and everything generated; downloaded data stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis lightning_logs checkpoints
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras; pip runs again only when what it was told has changed.
$(INSTALLED)-%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

.PRECIOUS: $(INSTALLED)-%
