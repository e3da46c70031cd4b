# Everything that a fresh clone needs, with nothing installed but Python 3.11, make and git.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
TORCH := 2.13.0
# An index that serves CPU builds of torch, if the default one does not: make setup TORCH_INDEX=https://…
TORCH_INDEX ?=
UV := 0.13.9
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo real test test-slow test-fast lint format docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the kilter command
	@echo "Ready: source .venv/bin/activate, then kilter --help"

# The CPU build of torch is asked for by its local version first, so that gigabytes of CUDA arrive only where it is not to be had.
$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import torch, sys; sys.exit(torch.__version__.split("+")[0] != "$(TORCH)")' 2>/dev/null \
	  || $(BIN)/pip install --quiet "torch==$(TORCH)+cpu" $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  || $(BIN)/pip install --quiet "torch==$(TORCH)"
	@$(BIN)/pip install --quiet "uv==$(UV)" && $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock \
	  || $(BIN)/pip install --quiet -r requirements.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## Run a whole study on the CPU and print where its report is
	@$(BIN)/kilter run studies/demo.yaml --store demo-output/store --out demo-output/report --jobs $(JOBS)

real: $(READY) ## Run a study on the real data sets below $KILTER_DATA
	@$(BIN)/kilter run studies/real-small.yaml --store demo-output/real-store --out demo-output/real-report --jobs $(JOBS)

test: $(READY) ## Run all tests but the longest
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup -m "not long" $(PYTEST_ARGUMENTS)

test-slow: $(READY) ## Run the longest tests
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup -m long $(PYTEST_ARGUMENTS)

test-fast: $(READY) ## Run the tests that take seconds
	@$(BIN)/pytest -n $(JOBS) --dist loadgroup -m "not slow and not long" tests/unit $(PYTEST_ARGUMENTS)

lint: $(READY) ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## Mend style
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

docs: $(READY) ## Write the generated parts of the documentation
	@$(BIN)/python -m kilter.study.schema
	@$(BIN)/python -m kilter.cli.reference
	@$(BIN)/python -m kilter.cli.methods_page

lock: ## Resolve requirements.lock again (needs uv; every pin except torch)
	@echo "torch==$(TORCH)" > .venv/torch-constraint.txt
	@$(BIN)/uv pip compile --quiet --python-version 3.11 -c .venv/torch-constraint.txt --all-extras --group dev \
	  --no-emit-package torch --no-header --no-annotate pyproject.toml -o requirements.lock

clean: ## Remove what was made here, the environment too
	@rm -rf .venv demo-output kilter-report .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
