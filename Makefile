# make demo, make test: each sets itself up in .venv. PYTHON and TORCH may be given: make test TORCH=torch==2.4.1
# make docs: the site, in site/. make release: what a release goes through, in dist/.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
install_torch = { $(1)/pip install -q "$(TORCH)+cpu" 2>/dev/null || $(1)/pip install -q "$(TORCH)"; }

.PHONY: demo test test-julia lint docs serve bench mutants results release version clean

demo: $(VENV)/ready
	$(BIN)/pylocalreg demo

test: $(VENV)/ready
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --no-warn-return-any # what the oldest Python lacks; its numpy stubs return Any

# LocalReg's own tests, in the project that juliapkg keeps
test-julia:
	$(BIN)/python -c "import juliapkg; juliapkg.resolve(); print(juliapkg.executable(), juliapkg.project())" | tail -1 | \
	    { read julia project; $$julia --project=$$project -e 'import Pkg; Pkg.test("LocalReg")'; }

docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

serve: $(VENV)/ready-docs
	$(BIN)/mkdocs serve

# What is measured on this machine takes the place of what was; an hour where nothing else runs.
BENCH := docs/records/bench
bench: $(VENV)/ready-bench
	$(BIN)/python -m benchmarks.networks --threads 1 --json $(BENCH)/mnist-1.json
	$(BIN)/python -m benchmarks.networks --threads 2 --json $(BENCH)/mnist-2.json
	$(BIN)/python -m benchmarks.networks --shape small --json $(BENCH)/small-1.json
	$(BIN)/python -m benchmarks.sde --json $(BENCH)/sde.json
	$(BIN)/python -m benchmarks.memory --json $(BENCH)/memory.json
	rm -f $(BENCH)/work_precision.jsonl
	$(BIN)/python -m benchmarks.work_precision --records $(BENCH)/work_precision.jsonl
	$(BIN)/python -m benchmarks.results

results: $(VENV)/ready
	$(BIN)/python -m benchmarks.results

mutants: $(VENV)/ready
	$(BIN)/python -m tests.mutants

# A torch that PYTHON's own installation has is used; else a CPU build where one is to be had, else the usual one.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv --clear --system-site-packages $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || { $(PYTHON) -m venv --clear $(VENV) && \
	    $(call install_torch,$(BIN)); }
	$(BIN)/pip install -q -e ".[dev]"
	touch $@

$(VENV)/ready-docs: $(VENV)/ready
	$(BIN)/pip install -q -e ".[docs]"
	touch $@

$(VENV)/ready-release: $(VENV)/ready
	$(BIN)/pip install -q -e ".[release]"
	touch $@

$(VENV)/ready-bench: $(VENV)/ready
	$(BIN)/pip install -q -e ".[bench]"
	touch $@

# The distributions and the files that go with them; the wheel alone, in an environment of its own, has to work.
release: $(VENV)/ready-release
	rm -rf dist build/alone
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/cffconvert --validate
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/python -m venv build/alone
	$(call install_torch,build/alone/bin)
	build/alone/bin/pip install -q dist/*.whl
	cd build && alone/bin/pylocalreg --version && alone/bin/pylocalreg doctor && alone/bin/pylocalreg completion bash

# TAG, as v1.2.3, is the version that the package, its changelog and its citation name
version:
	grep -q '^version = "$(TAG:v%=%)"$$' pyproject.toml
	grep -q '^__version__ = "$(TAG:v%=%)"$$' pylocalreg/__init__.py
	grep -q '^## \[$(TAG:v%=%)\]' CHANGELOG.md
	grep -q '^version: $(TAG:v%=%)$$' CITATION.cff

clean:
	rm -rf $(VENV) build dist site *.egg-info
