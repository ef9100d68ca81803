# Works from a fresh clone with GNU make and Python 3.10 or newer; `make` alone lists what there is.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
LABEL_VENV ?= .venv-label
BUNDLES ?= la
STUDIES ?=
LABEL_OPTIONS ?=
TEST_JOBS ?= 2
INSTALLED := $(VENV)/.installed
# -qq: errors only. pip's warnings about package folders that a machine is set up for and lacks say nothing here.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# Whole files to a process each: their tests share what a fixture of the module made. One thread each, or they would fight.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo label label-environment test test-all test-label test-viewer fuzz killed check docs notebooks wheel benchmark clean

help: ## this list
	@echo "AutoPromptSeg: make TARGET [VENV=$(VENV)] [PYTHON=$(PYTHON)]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(INSTALLED) ## install everything, with pinned versions, into VENV

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "make: $(PYTHON) is missing or older than 3.10 ($$($(PYTHON) --version 2>&1)): make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version); takes a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@echo "  PyTorch (a CPU build is smaller: see constraints.txt)"
	@$(PIP) torch
	@echo "  the project and its tools"
	@$(PIP) -e ".[dev]"
	@touch $@

demo: $(INSTALLED) ## train, segment and evaluate on made-up scans; results in runs/demo
	@$(BIN)/aps demo

label: $(INSTALLED) ## MONAI Label for 3D Slicer: make label STUDIES=DIR [BUNDLES=la,amos] [LABEL_OPTIONS=--untrained]
	@test -n "$(STUDIES)" || { echo "make: name the folder of the scans: make label STUDIES=DIR [BUNDLES=la,amos]" >&2; exit 1; }
	@$(BIN)/aps label --bundles "$(BUNDLES)" --studies "$(STUDIES)" --environment $(LABEL_VENV) $(LABEL_OPTIONS)

label-environment: $(INSTALLED) ## the environment with MONAI Label alone, in LABEL_VENV
	@$(BIN)/python -c 'import sys; from aps_components.label_server import ensure_environment; ensure_environment(sys.argv[1])' $(LABEL_VENV)

test: $(INSTALLED) ## the quick tests, in TEST_JOBS=2 processes
	@$(PYTEST)

test-all: $(INSTALLED) ## all tests, the slow ones too
	@$(PYTEST) -m ""

test-label: label-environment ## the tests that ask a real MONAI Label server
	@LABEL_ENVIRONMENT=$(abspath $(LABEL_VENV)) $(BIN)/python -m pytest -m label_server tests/label_server

test-viewer: label-environment ## OHIF in Chromium over Orthanc (needs orthanc, orthanc-dicomweb, chromium, pip's playwright)
	@LABEL_ENVIRONMENT=$(abspath $(LABEL_VENV)) $(BIN)/python -m pytest -rs -m viewer tests/viewer

fuzz: $(INSTALLED) ## thousands of odd and damaged files through every reader; prints a table
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzzing/fuzz.py

killed: $(INSTALLED) ## kill every command at some moment, fill its disk, and call it again
	@OMP_NUM_THREADS=1 $(BIN)/python tests/fuzzing/killed.py

check: $(INSTALLED) ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(VENV)/.docs ## the documentation and the API reference as a site, in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir build/site
	@echo "build/site/index.html"

notebooks: $(VENV)/.notebooks ## run the notebooks of docs/notebooks
	@APS_TIME=$${APS_TIME:-6m} OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=3600 --override-ini=addopts=-q --override-ini=timeout=0 docs/notebooks

wheel: $(INSTALLED) ## a wheel and a source archive with the bundles in them, in dist
	@$(BIN)/python -m build --outdir dist .

$(VENV)/.docs $(VENV)/.notebooks: $(VENV)/.%: $(INSTALLED)
	@$(PIP) -e ".[$*]"
	@touch $@

benchmark: $(INSTALLED) ## seconds and memory of a training step
	@$(BIN)/python benchmarks/train_step.py

clean: ## remove the environment, caches and results of the demo
	rm -rf $(VENV) $(LABEL_VENV) runs/demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
