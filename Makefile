# Everything lives in .venv. On a fresh machine each target does its own set-up: `make demo` of what users need, `make test`
# of what the tests need too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
SERVE := .venv-serve
LOWEST := .venv-lowest
CHECKPOINT ?= demo/checkpoint.pth
IMAGES ?= samples/images/10.jpg samples/images/BloodImage_00000.jpg
# Processes of tests side by side; each takes its share of the cores and up to 4 GB.
WORKERS ?= 2
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup serve-env demo test test-fast test-lowest conformity docs notebooks bench bench-full sanitize targets verify lint format dist clean

help:
	@echo "make demo    set up, convert a checkpoint, prove it, detect on a sample image (writes demo/)"
	@echo "make test    set up and run all tests (make test-fast leaves the slow ones out; WORKERS=4 runs more at once)"
	@echo "make test-lowest  run the quick tests with the lowest versions that pyproject.toml allows, in $(LOWEST)"
	@echo "make conformity  run transformers' own tests of every model on this package's classes (fetches them from PyPI)"
	@echo "make sanitize  fuzz the C code under AddressSanitizer and UBSan for a minute (gcc, x86-64)"
	@echo "make targets  compile the C code for all platforms of the wheels, and run its aarch64 build under qemu"
	@echo "make verify  run the real MMDetection beside this package and compare (make verify CHECKPOINT=your.pth)"
	@echo "make docs    build the documentation into build/site"
	@echo "make notebooks  run every notebook and keep what it shows (make notebooks CHECK=--check writes nothing)"
	@echo "make bench   time operator, detector, training, loader and start-up beside transformers' own and MMDetection"
	@echo "             (make bench-full: curves over size and batch, torch.compile)"
	@echo "make serve-env  an environment for Azure's server, in $(SERVE)"
	@echo "make dist    the source package, and this machine's wheel from it, in dist/"
	@echo "make lint    check style and types (make format mends style)"
	@echo "make setup   only the environment, in $(VENV), with $(PYTHON) (make PYTHON=python3.12 setup)"

setup: $(READY)

$(READY): pyproject.toml $(wildcard modeling/*.c modeling/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not there or older than Python 3.11: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV) (downloads PyTorch: some minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[train]"
	@touch $@

$(DEV): $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	@touch $@

# Azure's server and MLflow ask for other versions of the same packages. This environment sees all of .venv and has its own
# beside it only where they differ; pip would warn of what then conflicts with the versions below.
serve-env: $(SERVE)/.ready

$(SERVE)/.ready: $(DEV)
	test -x $(SERVE)/bin/python || $(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/python -c 'import sysconfig, pathlib; below = pathlib.Path("$(VENV)").resolve().glob("lib/python*/site-packages"); \
		pathlib.Path(sysconfig.get_path("purelib"), "below.pth").write_text(f"import site; site.addsitedir({str(next(below))!r})\n")'
	$(SERVE)/bin/python -m pip install --disable-pip-version-check --quiet --no-warn-conflicts "deformable-detr-refine[serve]"
	$(SERVE)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --ignore-installed --editable .
	@touch $@
	@echo "Serve a detector: $(SERVE)/bin/ddetr serve samples/blood-cells --port 5001"

demo: $(READY)
	$(BIN)/python samples/demo.py demo

# Not `python -m pytest`, which puts the repository's root onto sys.path. A file's tests stay in one process.
test: $(DEV) $(SERVE)/.ready
	$(PYTEST)

test-fast: $(DEV)
	$(PYTEST) -m "not slow"

# uv chooses the versions; compiled, or each process that a test starts would compile its imports again.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow"

$(LOWEST)/.ready: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --disable-pip-version-check --quiet uv
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct --compile-bytecode --editable ".[dev]"
	@touch $@

# They lie in the source package of the installed release only; what is left out, and why: tests/conformity/left_out.py.
conformity: $(DEV)
	$(BIN)/python tests/conformity/run.py

# torch itself has leaks at exit and is not instrumented: memory errors and undefined behaviour are what counts.
sanitize: $(DEV)
	mkdir -p build
	gcc -std=gnu11 -O1 -g -mavx2 -mfma -fPIC -shared -Wno-psabi -fsanitize=address,undefined -fno-sanitize-recover=all \
		-o build/sanitized_avx2.so modeling/*.c
	gcc -std=gnu11 -O1 -g -fPIC -shared -Wno-psabi -fsanitize=address,undefined -fno-sanitize-recover=all \
		-o build/sanitized_baseline.so modeling/*.c
	for build in avx2 baseline; do \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
			$(BIN)/python tests/fuzz/operator_in_c.py --library build/sanitized_$$build.so --seconds 30 || exit 1; \
	done

targets: $(DEV)
	$(BIN)/pytest tests/modeling/test_c_targets.py

demo/checkpoint.pth: | $(READY)
	$(BIN)/python samples/random_checkpoint.py $@

verify: $(READY) $(CHECKPOINT)
	$(BIN)/ddetr verify $(CHECKPOINT) --images $(IMAGES) --round-trip

# --strict: a broken link fails.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(DEV) $(SERVE)/.ready
	$(BIN)/python notebooks/run.py $(CHECK)

bench: $(DEV)
	$(BIN)/python benchmarks/run.py

bench-full: $(DEV)
	$(BIN)/python benchmarks/run.py --full

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist:
	rm -rf dist
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet build
	$(BIN)/python -m build
	$(BIN)/python .github/check_release.py dist/*.whl

clean:
	rm -rf demo build dist notebooks/output *.egg-info .pytest_cache .ruff_cache
