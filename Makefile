# make demo   plays the demo clip          make test    lints, checks types and tests
# make bench  prints quality and speed     make lint    lints and checks types
# make clean  removes all that make made   make soak    runs the tests that take minutes
# make docs   builds the documentation into build/site; a warning is an error
#
# Needs Python 3.10 or newer with venv; everything else is installed into .venv, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-

# For the packages and for what builds them: older pips read only the first, newer ones want both.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: demo test soak bench lint docs clean

demo: $(STAMP)all
	$(BIN)/rtspecinv demo

test: lint
	$(BIN)/pytest

soak: $(STAMP)all,test
	$(BIN)/pytest -m soak -s

lint: $(STAMP)all,test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMP)all,bench
	@$(BIN)/python -c 'import pesq' 2>/dev/null || $(BIN)/python -m pip install -e '.[pesq]' \
		|| echo 'pesq could not be built (it needs a C compiler): the columns PESQ stay empty.'
	$(BIN)/python bench/quality.py
	$(BIN)/python bench/batch.py
	$(BIN)/python bench/push.py
	$(BIN)/python bench/mel.py
	$(if $(wildcard bench/bench_*.py),$(BIN)/pytest --benchmark-enable --benchmark-only bench)

docs: $(STAMP)docs
	@test -x $(BIN)/mkdocs || { echo 'make docs needs Python 3.11 or newer: make clean, then make docs PYTHON=python3.12'; exit 1; }
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'written: build/site/index.html'

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first: what depends on it must find this very version, whichever build the machine has.
$(STAMP)torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "rtspecinv needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch==2.13.0
	touch $@

$(STAMP)%: $(STAMP)torch pyproject.toml
	$(BIN)/python -m pip install -e '.[$*]'
	touch $@
