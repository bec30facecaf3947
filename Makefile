# make demo, make test: each sets itself up in .venv. PYTHON and TORCH may be given: make test TORCH=torch==2.4.1
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench mutants results clean

demo: $(VENV)/ready
	$(BIN)/pylocalreg demo

test: $(VENV)/ready
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready-bench
	$(BIN)/python -m benchmarks.mnist_shape
	$(BIN)/python -m benchmarks.sde
	$(BIN)/python -m benchmarks.memory

results: $(VENV)/ready
	$(BIN)/python -m benchmarks.results

mutants: $(VENV)/ready
	$(BIN)/python -m tests.mutants

# A torch that PYTHON's own installation has is used; else a CPU build where one is to be had, else the usual one.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv --clear --system-site-packages $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || { $(PYTHON) -m venv --clear $(VENV) && \
	    { $(BIN)/pip install -q "$(TORCH)+cpu" 2>/dev/null || $(BIN)/pip install -q "$(TORCH)"; }; }
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

$(VENV)/ready-bench: $(VENV)/ready
	$(BIN)/pip install -q -e ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
