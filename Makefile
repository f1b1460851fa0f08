# Everything runs in .venv, which `make setup` creates. `make help` lists the targets.

PYTHON ?= python3
UV     ?= uv

# What pip is given to install torch. The default finds the CPU build on Linux and macOS: of equal
# versions pip prefers 2.13.0+cpu, and when the extra index cannot be reached it goes on without.
# For the CUDA build on Linux:  make clean setup TORCH="torch==2.13.0"
TORCH  ?= -r requirements/torch.txt --extra-index-url https://download.pytorch.org/whl/cpu

VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --no-input
BASE   := $(VENV)/.base-done
STAMP  := $(VENV)/.setup-done

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-federation test test-quick lint format docs bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Create .venv with all locked dependencies and this package

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed (make PYTHON=...)" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)

# Both locks are complete but for torch, hence --no-deps; torch comes after the first one, so that
# the extra index is asked for nothing but torch.
$(BASE): pyproject.toml requirements/base.lock requirements/torch.txt | $(PY)
	$(PIP) install --quiet --no-deps --require-hashes -r requirements/base.lock
	$(PIP) install --quiet --timeout 15 --retries 2 $(TORCH)
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $@

$(STAMP): requirements/dev.lock $(BASE)
	$(PIP) install --quiet --no-deps --require-hashes -r requirements/dev.lock
	$(PIP) check
	@touch $@

demo: $(BASE) ## Install what editing needs, and run the demonstration
	$(VENV)/bin/collabedit demo

demo-federation: setup ## Run a federation of three organisations on this machine
	$(VENV)/bin/collabedit federation demo --parties 3

# Two processes of one thread each: the models of the tests are too small for more threads. They take
# the files in the order of tests/conftest.py.
TESTS ?= -n 2 --dist loadfile --no-loadscope-reorder

test: setup ## Run the whole test suite
	$(PY) -m pytest $(TESTS)

test-quick: setup ## Run the tests that need neither the real model nor much time
	$(PY) -m pytest $(TESTS) -m "not slow"

lint: setup ## Check style, format, types and the layers of imports
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: setup ## Sort imports, apply safe fixes and format
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: setup ## Build the documentation into build/docs; any warning fails
	$(PY) -m sphinx -b html -W --keep-going -n -q -d build/doctrees docs build/docs

bench: setup ## Run all benchmarks (hours; up to 13 GB)
	$(PY) -m benchmarks

COMPILE = $(UV) pip compile pyproject.toml --quiet $(UPGRADE) --universal --python-version 3.10 \
    --generate-hashes --no-emit-index-url --constraint requirements/torch.txt \
    --no-emit-package torch --excludes requirements/excluded.txt \
    --custom-compile-command "make lock"

lock: ## Renew the locks in requirements/ (needs uv; UPGRADE=--upgrade takes newer versions)
	$(COMPILE) --all-extras --group dev --output-file requirements/dev.lock
	$(COMPILE) --group build --constraint requirements/dev.lock --output-file requirements/base.lock
	@! grep -nE '^(torch|triton|cuda|nvidia)[a-z0-9-]*==|://' requirements/*.lock

clean: ## Remove .venv, caches and build outputs (results/ stays)
	rm -rf $(VENV) build dist docs/reference/python docs/reference/commands.md docs/reference/metrics.md htmlcov .coverage .pytest_cache .hypothesis .mypy_cache .ruff_cache \
	    .import_linter_cache
	find src tests benchmarks paper_commands tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
