# Two commands for a new machine: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-long lint types tests setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@echo "Installing; llama-cpp-python is built from source, which takes about five minutes the first time."
	$(BIN)/python -m pip install --quiet --editable ".[tui,hub]" --group dev
	@touch $(STAMP)

# --force: the demo ends with a file whatever the verdict; exit code 1 is a finding, which the verdict explains.
demo: setup
	$(BIN)/rosi-edge harden demo -o hardened.gguf --report report --force || test $$? -eq 1

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# A process a core; then the tests that run the demo model, which takes all cores itself.
tests: setup
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
		$(BIN)/python -m pytest -n logical --dist worksteal -m "not model"
	$(BIN)/python -m pytest -m model

test: lint types tests

# What takes hours or only repeats with other numbers: see the marker `long`.
test-long: setup
	$(BIN)/python -m pytest -m long

clean:
	rm -rf $(VENV) build *.egg-info
