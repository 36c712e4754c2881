# Every target creates .venv on its first run; running it again costs nothing.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := constraints.txt

.PHONY: demo test check bench docs notebooks

demo: .venv/installed
	$(BIN)/layerprobe demo

test: .venv/cluster
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python benchmarks/core.py --out benchmarks/core.csv
	$(BIN)/python benchmarks/probing.py --out benchmarks/probing.csv

# The examples run while the site is built, with one thread each.
docs: .venv/documentation
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Run the notebooks and store their outputs.
notebooks: .venv/documentation
	$(BIN)/jupyter execute --inplace examples/*.ipynb

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv/documentation: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev,docs]'
	touch $@

# The tests send work to small dask and Ray clusters on this machine.
.venv/cluster: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev,cluster]'
	touch $@
