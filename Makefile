# make demo   sets up and runs a call with yourself
# make test   sets up and runs all tests
# make check  lint, format and types
#
# Each installs the versions of constraints.txt; CONSTRAINTS=/dev/null takes the newest ones instead.
PYTHON ?= python3
BIN = .venv/bin
CONSTRAINTS = constraints.txt
# Two names for one thing: older versions of pip take the first for what builds a package as well.
INSTALL = PIP_CONSTRAINT=$(CONSTRAINTS) PIP_BUILD_CONSTRAINT=$(CONSTRAINTS) $(BIN)/pip install --quiet

.PHONY: demo test check clean

demo: .venv/with-demo
	@$(BIN)/python -c "import cv2" || { echo "OpenCV needs libGL: apt install libgl1 libglib2.0-0"; exit 1; }
	$(BIN)/receiver demo

test: .venv/with-tests
	$(BIN)/python -m pytest --ignore tests/calls --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest tests/calls  # one by one: calls run in real time

check: .venv/with-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/with-demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[demo]'
	touch $@

.venv/with-tests: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[demo,train,bench,dev]'
	touch $@ .venv/with-demo

clean:
	rm -rf .venv build *.egg-info demo-output bench-output
