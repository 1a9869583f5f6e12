# make demo [TRACE=path.csv.gz]   install, sweep, train, compare; the report and the commands of the UIs at the end
# make test | check | bench       the whole suite; lint, types, import contract; the figures
# make nightly                    thousands of generated profiles and of damaged documents and traces
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
SPEC ?= experiments/specs/demo.yaml
TRACE ?=
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-script-location -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test nightly check bench clean

help:
	@sed -n '1,3s/^# //p' Makefile

demo: $(INSTALLED)
	@$(BIN)/devops-sim sweep $(SPEC) $(if $(TRACE),--trace "$(TRACE)")

bench: $(INSTALLED)
	@$(BIN)/devops-sim bench

test: $(INSTALLED_DEV)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

nightly: $(INSTALLED_DEV)
	@$(BIN)/python -m pytest -n 2 --dist load -m "nightly or fuzz"

check: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11, or give PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make: $(PYTHON) is not Python 3.11; give PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing $$(grep -c == constraints.txt) pinned packages into $(VENV); once, a few minutes, 3 GB ..." >&2
	@$(INSTALL) -e .
	@touch $@
	@echo "Installed." >&2

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Installing the tools of the test suite ..." >&2
	@$(INSTALL) -e '.[dev]'
	@touch $@
