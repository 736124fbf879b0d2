# make demo   fine-tune Deep-AE on the simulated SoC, compared with PyTorch
# make test   formatting, static checks, lit and pytest
# make test-gvsoc  tdsim against GVSoC (docs/gvsoc.md), which TRAINDEEPLOY_GVSOC names
# make fuzz   mutated texts through the compiler's passes for ten minutes, and mutated files and options of the command
# make onnx-node-tests  all of ONNX's own tests of nodes, and docs/onnx_node_tests.md
# make bench  the figures of the project as a table
# make format rewrite sources in the project's format
# make clean  remove the build and the environment
#
# Everything is installed into .venv; stamps there record what was installed from which sources.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

# Directories are among the sources, so that a removed file leads to a rebuild, too.
SOURCES := pyproject.toml CMakeLists.txt \
  $(shell find dialects passes lib tools python -not -path '*/__pycache__*' \( -type d -o -type f \))
CXX_SOURCES = $(shell git ls-files '*.cpp' '*.h' '*.c')

.PHONY: demo test test-gvsoc fuzz onnx-node-tests bench format check clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/package $(STAMPS)/torch
	@$(BIN)/python examples/demo.py

test: $(STAMPS)/package $(STAMPS)/torch $(STAMPS)/test
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/run_tests.py

test-gvsoc: $(STAMPS)/package $(STAMPS)/torch $(STAMPS)/test $(STAMPS)/gvsoc
	@$(BIN)/python test/gvsoc/agreement.py

fuzz: $(STAMPS)/package
	@$(BIN)/python test/python/fuzz_td_opt.py
	@$(BIN)/python test/python/fuzz_cli.py 1000 5000

onnx-node-tests: $(STAMPS)/package
	@$(BIN)/python test/python/onnx_node_tests.py --write

bench: $(STAMPS)/package
	@$(BIN)/python benchmarks/deep_ae.py
	@$(BIN)/python benchmarks/strategies.py
	@$(BIN)/python benchmarks/optimizers.py

format: $(STAMPS)/test
	@$(BIN)/ruff check --fix --quiet . && $(BIN)/ruff format --quiet .
	@$(BIN)/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf build $(VENV)

$(STAMPS)/created:
	@echo "==> Creating the environment $(VENV)"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed")'
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/build: pyproject.toml $(STAMPS)/created
	@echo "==> Installing MLIR, the cross compiler and build tools from PyPI (1-2 minutes)"
	@$(BIN)/python tools/requirements.py build runtime > $@.txt
	@$(PIP) -r $@.txt
	@touch $@

$(STAMPS)/torch: pyproject.toml $(STAMPS)/build
	@echo "==> Installing PyTorch from PyPI (1-2 minutes)"
	@$(BIN)/python tools/requirements.py torch > $@.txt
	@$(PIP) -r $@.txt
	@touch $@

$(STAMPS)/gvsoc: pyproject.toml $(STAMPS)/build
	@$(BIN)/python tools/requirements.py gvsoc > $@.txt
	@$(PIP) -r $@.txt
	@touch $@

$(STAMPS)/test: pyproject.toml $(STAMPS)/build
	@echo "==> Installing test tools from PyPI"
	@$(BIN)/python tools/requirements.py test examples huggingface > $@.txt
	@$(PIP) -r $@.txt
	@touch $@

# Without isolation the build folder stays valid, and only what changed is compiled again.
$(STAMPS)/package: $(SOURCES) $(STAMPS)/build
	@echo "==> Building traindeeploy (a few minutes the first time)"
	@$(PIP) --no-build-isolation --no-deps --force-reinstall .
	@touch $@
