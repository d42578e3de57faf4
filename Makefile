# Everything a newcomer types. `make` alone lists the targets.

PYTHON ?= python3
STUDY ?= experiments/demo.yaml

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
# Branch coverage is complete in these modules: they decide which numbers reach a paper.
PURE := harness.records harness.spec harness.spec_part harness.spec_recipe harness.spec_protocol \
        harness.spec_report harness.plan harness.seeding harness.registry harness.metrics harness.confusion \
        harness.results reports.latex reports.intervals reports.sample_statistics reports.row_scores \
        reports.significance reports.comparisons reports.effect_size reports.equivalence reports.power \
        reports.factorial reports.factors reports.ranks reports.rank_blocks

# Tracking servers and databases, which `make test` has none of, are read by these.
SERVERS := tests/test_tracking_server.py tests/test_postgresql.py

# Test files side by side, one per core; those that need Ray share one process, so that one Ray serves them.
PARALLEL := -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-cluster check coverage clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## make .venv and install the pinned versions into it

demo: $(STAMP)  ## train and report a small study (STUDY=experiments/demo.yaml)
	@$(BIN)/harness run $(STUDY)

test: $(STAMP)  ## run the test suite on the CPU
	@CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest $(PARALLEL)

test-cluster: $(STAMP)  ## several hosts, servers, killed processes (minutes; some need root)
	@CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m cluster

check: $(STAMP)  ## ruff, mypy, house rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_house_rules.py

coverage: $(STAMP)  ## run the suite; fail below 100 % branch coverage of the pure modules
	@CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest $(PARALLEL) --cov-branch $(PURE:%=--cov=%) --cov-report=
	@$(BIN)/python -m pytest -m cluster $(SERVERS) --cov-append --cov-branch $(PURE:%=--cov=%) \
		--cov-report=term-missing:skip-covered --cov-fail-under=100

clean:  ## remove caches and build products (keeps .venv/ and runs/)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) was found: make venv PYTHON=python3.11" >&2; exit 1; }
	@$(BIN)/python -c '' 2>/dev/null || { \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo "installing into $(VENV) (several GB the first time) ..."
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@
