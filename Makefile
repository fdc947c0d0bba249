# Everything lives in .venv. On a fresh machine `make demo`, `make test` and `make verify` do their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CHECKPOINT ?= demo/checkpoint.pth
IMAGES ?= samples/images/10.jpg samples/images/BloodImage_00000.jpg

.PHONY: help setup demo test test-fast verify lint format clean

help:
	@echo "make demo    set up, convert a checkpoint, prove it, detect on a sample image (writes demo/)"
	@echo "make test    set up and run all tests (make test-fast leaves the slow ones out)"
	@echo "make verify  run the real MMDetection beside this package and compare (make verify CHECKPOINT=your.pth)"
	@echo "make lint    check style (make format mends it)"
	@echo "make setup   only the environment, in $(VENV), with $(PYTHON) (make PYTHON=python3.12 setup)"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not there or older than Python 3.11: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV) (downloads PyTorch: some minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/python samples/demo.py demo

# Not `python -m pytest`, which puts the repository's root onto sys.path.
test: $(READY)
	$(BIN)/pytest

test-fast: $(READY)
	$(BIN)/pytest -m "not slow"

demo/checkpoint.pth: | $(READY)
	$(BIN)/python samples/random_checkpoint.py $@

verify: $(READY) $(CHECKPOINT)
	$(BIN)/ddetr verify $(CHECKPOINT) --images $(IMAGES) --round-trip

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build dist *.egg-info .pytest_cache .ruff_cache
