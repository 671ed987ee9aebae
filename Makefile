# Commands of ECG Portal. `make help` lists them.

# The first Python on the path that the portal supports; another one by: make PYTHON=/path/to/python3 run
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; print("$(name)") if (3, 11) <= sys.version_info[:2] < (3, 14) else None' 2>/dev/null)) python3)
VENV_PYTHON := .venv/bin/python
BIN := .venv/bin

# Further arguments, as in: make test ARGS="tests/viz -x"
ARGS ?=

PURE := $(wildcard datasets/ecg.py datasets/formats datasets/preprocess datasets/measure datasets/prepared.py \
	datasets/splits.py datasets/holding_out.py datasets/stratification.py datasets/quality datasets/quality.py datasets/simulator datasets/simulator.py \
	modelhub/contract.py modelhub/bundle.py modelhub/onnx modelhub/runtime modelhub/architectures \
	training/problems training/metrics training/engine viz/figures \
	ecgportal/errors.py ecgportal/client_address.py ecgportal/pdf.py ecgportal/home.py ecgportal/bootstrap.py ecgportal/os_account.py ecgportal/embedded_pg.py \
	ecgportal/listening.py ecgportal/logfiles.py ecgportal/processes.py ecgportal/supervisor.py)

.DEFAULT_GOAL := help
.PHONY: help install run test proofs bench lint format shell clean

help: ## list the commands
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## make .venv and install what the portal needs (run does it, too)
	@$(PYTHON) -m ecgportal.bootstrap worker

run: ## start everything and print the address; Ctrl-C ends all of it
	@$(PYTHON) -m ecgportal.bootstrap worker
	@exec $(VENV_PYTHON) -m ecgportal.supervisor

test: ## install what the tests need and run all of them
	@$(PYTHON) -m ecgportal.bootstrap dev
	@exec $(VENV_PYTHON) -m tests.run $(ARGS)

proofs: ## run the slow proofs (trainings on real data and the like)
	@$(PYTHON) -m ecgportal.bootstrap dev
	@exec $(VENV_PYTHON) -m tests.run -m slow $(ARGS)

bench: ## run the benchmarks, print a table, write JSON under PORTAL_HOME/bench/
	@$(PYTHON) -m ecgportal.bootstrap dev
	@exec $(VENV_PYTHON) -m tests.bench $(ARGS)

lint: ## check style, formatting, types of the pure core and the direction of imports
	@$(PYTHON) -m ecgportal.bootstrap dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PURE)
	$(BIN)/lint-imports

format: ## put all files into the house's format
	@$(PYTHON) -m ecgportal.bootstrap dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

shell: ## open a Python shell with the portal loaded (the portal must be running)
	@exec $(VENV_PYTHON) manage.py shell

clean: ## remove caches (neither data nor .venv)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
