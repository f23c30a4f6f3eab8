# Two commands for a new machine: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types tests setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@echo "Installing; llama-cpp-python is built from source, which takes about five minutes the first time."
	$(BIN)/python -m pip install --quiet --editable ".[hub]" --group dev
	@touch $(STAMP)

# --force: the demo ends with a file whatever the verdict; exit code 1 is a finding, which the verdict explains.
demo: setup
	$(BIN)/rosi-edge harden demo -o hardened.gguf --report report --force || test $$? -eq 1

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

tests: setup
	$(BIN)/python -m pytest

test: lint types tests

clean:
	rm -rf $(VENV) build *.egg-info
