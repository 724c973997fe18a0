# `make demo` shows what the project does, `make test` that it does it right.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml constraints.txt $(shell find src -type f -not -name '*.pyc')

.PHONY: demo test test-all lint bench docs build clean

demo: .venv/study  ## the paper's protocol in small; prints the path of the report
	$(BIN)/polyak demo

test: .venv/dev lint  ## what must pass before a change: lint, types, doctests, ordinary tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow and not oracle" --doctest-modules --pyargs polyak tests

test-all: .venv/dev lint  ## also the slow tests and those against other tools
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[oracle,integrations]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --doctest-modules --pyargs polyak tests

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev  ## measures on this machine what docs/ has tables of, and writes them; hours
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[bench,study]"
	$(BIN)/python benchmarks/all.py

docs: .venv/dev  ## the site in build/site/, to be read without a network; a broken link fails
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[docs]"
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -c docs . build/site
	@echo "open build/site/index.html"

build: .venv/dev  ## wheel and sdist in dist/, whose README an index can show
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[release]"
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf .venv build dist

# The package is installed, not linked, so that tests run against what users get.
.venv/study: $(SOURCES)
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[study]"
	touch $@

.venv/dev: $(SOURCES)
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt ".[dev]"
	touch $@ .venv/study
