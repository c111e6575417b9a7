# make demo   plays the demo clip          make test    lints, checks types and tests
# make quick  tests the core within a minute
# make bench  prints quality and speed     make lint    lints and checks types
# make clean  removes all that make wrote  make soak    runs the tests that take minutes
# make docs   builds the documentation into build/site; a warning is an error
# make bare   tests the built wheel without extras, in a separate virtual environment
# make wasm   compiles the C kernel for browsers (apt-get install clang lld)
#
# make needs Python 3.10 or newer with venv; it installs everything else into .venv, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-

# Versions of packages and of their build dependencies: an old pip reads only the first, a new pip needs both.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Tests of the core: they need torch and numpy, and use the compiled engine if it is installed.
CORE := $(patsubst %,tests/core/test_%.py,stft projections phase streaming batch blocks descent metrics) \
	tests/engines/test_engines.py tests/engines/test_engines_batch.py tests/engines/test_rules.py tests/mel/test_mel_stream.py \
	tests/cli/test_help.py tests/docs/test_architecture.py
# Tests that use a sound device or a fake one.
SOUND := tests/audio tests/live tests/docs/test_demos.py tests/docs/test_readme.py \
	$(patsubst %,tests/cli/test_%.py,cli cli_live doctor)
PYTEST := $(BIN)/pytest --benchmark-disable

.DELETE_ON_ERROR:
.PHONY: demo test quick soak bench lint lint-changed compiled docs silent bare wasm clean

demo: $(STAMP)all
	$(BIN)/rtspecinv demo

# Tests that play through a sound server run after the others, because a busy machine makes them late.
test: lint compiled
	$(PYTEST) --numprocesses auto -m 'not card'
	$(PYTEST) --numprocesses 2 --dist loadfile -m card

quick: lint-changed compiled
	$(PYTEST) --numprocesses auto -m 'not slow' $(CORE)

soak: $(STAMP)all,test
	$(BIN)/pytest -m soak -s

lint: $(STAMP)all,test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

lint-changed: $(STAMP)all,test
	@files=$$({ git diff --name-only --diff-filter=d HEAD; git ls-files --others --exclude-standard; } 2>/dev/null | grep '\.py$$'); \
		if [ -n "$$files" ]; then $(BIN)/ruff check $$files && $(BIN)/ruff format --check $$files; fi

compiled: $(STAMP)all,test
	@$(BIN)/python tests/support/compile_all.py

# Tests of sound devices as on a machine without PortAudio and JACK.
silent: $(STAMP)all,test compiled
	PYTHONPATH=$(CURDIR)/tests/without_sound $(PYTEST) --numprocesses auto $(SOUND)

bare: $(STAMP)all,test
	rm -rf build/bare build/wheel
	$(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install --quiet torch==2.13.0
	build/bare/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	build/bare/bin/python -m pip install --quiet build/wheel/*.whl pytest pytest-xdist hypothesis
	cd build/bare && bin/python -I -m pytest --numprocesses auto -c $(CURDIR)/pyproject.toml $(addprefix $(CURDIR)/,$(CORE))

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

# The same compiler makes the same bytes: those of the package are made by clang 14 of Debian 12.
CLANG  ?= clang
WASM   ?= rtspecinv/serve/page/push.wasm
EXPORT := check state_floats work_floats reset push
wasm:
	$(CLANG) --target=wasm32 -msimd128 -std=c99 -Wall -Wextra -Werror -O2 -ffreestanding -fno-math-errno -ffp-contract=off -nostdlib -fvisibility=hidden \
		-Wl,--no-entry,--strip-debug,-z,stack-size=16384,--export=__heap_base $(EXPORT:%=-Wl,--export=rtspecinv_%) \
		rtspecinv/kernel/push.c -o $(WASM)

clean:
	rm -rf $(VENV) build dist tests/page/node_modules tests/export/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch is installed first, so that packages that depend on it find exactly this version, of any build.
$(STAMP)torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "rtspecinv needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch==2.13.0
	touch $@

$(STAMP)%: $(STAMP)torch pyproject.toml
	$(BIN)/python -m pip install -e '.[$*]'
	touch $@
