# make demo   sets up and runs a call with yourself
# make test   sets up and runs all tests
# make check  lint, format and types
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check clean

demo: .venv/with-demo
	@$(BIN)/python -c "import cv2" || { echo "OpenCV needs libGL: apt install libgl1 libglib2.0-0"; exit 1; }
	$(BIN)/receiver demo

test: .venv/with-tests
	$(BIN)/python -m pytest

check: .venv/with-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/with-demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[demo]'
	touch $@

.venv/with-tests: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[demo,train,bench,dev]'
	touch $@ .venv/with-demo

clean:
	rm -rf .venv build *.egg-info demo-output bench-output
