# make demo    sets up and runs a call with yourself
# make check   lint, format and types
# make quick   the tests that start no process and wait for no clock: about a minute
# make test    all tests
# make bench   sets up what `python -m bench` needs, and lists the measurements
# make docs    builds the documentation into site/
#
# Each sets up .venv first, with the versions of constraints.txt; CONSTRAINTS=/dev/null takes the
# newest ones instead.
PYTHON ?= python3
BIN = .venv/bin
CONSTRAINTS = constraints.txt
# Two names for one thing: older versions of pip take the first for what builds a package as well.
INSTALL = PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS) $(BIN)/pip install --quiet
PYTEST = $(BIN)/python -m pytest
# A file's tests share fixtures, so they stay in one process.
PARALLEL = --numprocesses 2 --dist loadfile
# Calls with real-time media run one by one; the rest of tests/calls are HTTP, offers and servers.
REAL_TIME = tests/calls/test_*.py
# Set by .ci/run to --cov. It measures without the calls in real time, which it would slow down.
COVERAGE =

.PHONY: demo check quick test bench docs clean

demo: .venv/with-demo
	@$(BIN)/python -c "import cv2" || { echo "OpenCV needs libGL: apt install libgl1 libglib2.0-0"; exit 1; }
	$(BIN)/receiver demo

check: .venv/with-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: .venv/with-tests
	$(PYTEST) --ignore tests/calls --ignore tests/models --ignore tests/bench --ignore tests/commands \
		--ignore tests/sending $(PARALLEL) -m "not slow"

test: .venv/with-tests
	$(PYTEST) --ignore-glob '$(REAL_TIME)' $(PARALLEL) $(COVERAGE)
	$(PYTEST) $(REAL_TIME)

bench: .venv/with-bench
	$(BIN)/python -m bench --help

docs: .venv/with-docs
	$(BIN)/mkdocs build --strict

.venv/with-demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[demo]'
	touch $@

.venv/with-bench: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[bench]'
	$(INSTALL) --no-deps brisque
	touch $@

.venv/with-docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[docs]'
	touch $@

.venv/with-tests: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[demo,train,bench,dev]'
	$(INSTALL) --no-deps brisque
	touch $@ .venv/with-demo .venv/with-bench

clean:
	rm -rf .venv build site *.egg-info demo-output bench-output .coverage*
