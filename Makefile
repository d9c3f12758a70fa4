# Every target prepares .venv by itself, so a fresh clone needs nothing but `make TARGET`.

PYTHON ?= python3
# More or fewer processes, one test, ...: make test TESTFLAGS="-n 0 -k golden"
TESTFLAGS ?= -n 2
# Less of it: make bench BENCHFLAGS="--sets MLP --optimizers SGD"
BENCHFLAGS ?=
# More or others: make properties PROPERTYFLAGS="--specs 20000 --seed 2"
PROPERTYFLAGS ?=
# The benchmark's peers, pinned so that figures of different days compare; torch's CPU build is enough.
PEERS ?= torch==2.13.0 jax==0.10.2 optax==0.2.8
# The Python that make gpu runs as it is, with its torch or CuPy: make gpu GPU_PYTHON=/path/to/python
GPU_PYTHON ?= python3
# Less of it: make gpu GPUFLAGS="--only check --optimizers SGD"
GPUFLAGS ?=
# One more is MXNet 2.0, of a Python that has it: make bench MXNET_PYTHON=/path/to/python

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One stamp for each set of installed packages; a changed pyproject.toml makes them stale.
READY := $(VENV)/.ready

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help train test mutation properties generate check lint bench bench-quick gpu gpu-kernels clean

# Nothing outside an installation follows the package mapping of pyproject.toml: links in folder $(1) lay the
# folders out as they are imported.
define lay_out
@rm -rf $(1) && mkdir -p $(1)/stepspec
@ln -s $(foreach path,$(wildcard runtime/*) generator generated specs,"$(CURDIR)/$(path)") $(1)/stepspec/
endef

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

train: $(READY)-examples ## train on handwritten digits with every optimizer, and word embeddings
	$(BIN)/python examples/digits.py
	$(BIN)/python examples/words.py

test: $(READY)-dev ## run the tests
	$(BIN)/python -m pytest --dist loadgroup $(TESTFLAGS)

mutation: $(READY)-dev ## change specs in one place at a time: do the tests notice?
	$(BIN)/python tests/mutation.py

properties: $(READY)-dev ## hold 5,000 random specs to step and fused_step: one hour
	$(BIN)/python tests/random_agreement.py $(PROPERTYFLAGS)

generate: $(READY) ## write generated/ from specs/
	$(BIN)/stepspec generate

check: $(READY) ## fail if generated/ is not what specs/ say
	$(BIN)/stepspec generate --check

lint: $(READY)-dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(call lay_out,build/types)
	MYPYPATH=build/types $(BIN)/mypy --strict build/types/stepspec examples benchmarks tests

bench: $(READY)-peers ## measure the optimizers beside torch, optax and MXNet: an hour
	$(BIN)/python benchmarks/bench.py $(BENCHFLAGS)

bench-quick: $(READY)-bench ## ratios before and after a change: one minute
	$(BIN)/python benchmarks/quick.py $(BENCHFLAGS)

gpu: ## check and measure on a GPU, with GPU_PYTHON as it is: installs nothing
	$(call lay_out,build/package)
	PYTHONPATH="$(CURDIR)/build/package$(if $(PYTHONPATH),:$(PYTHONPATH))" $(GPU_PYTHON) benchmarks/gpu.py $(GPUFLAGS)

gpu-kernels: $(READY)-dev ## registers of the GPU kernels, compiled without a GPU
	$(BIN)/python benchmarks/gpu_kernels.py

clean: ## remove what make and Python wrote, .venv excepted
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf examples/output benchmarks/output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- .venv

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "stepspec needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(READY): $(VENV)/.created pyproject.toml
	$(PIP) install -e .
	@touch $@

$(READY)-examples $(READY)-dev $(READY)-bench: $(READY)-%: $(READY)
	$(PIP) install -e '.[$*]'
	@touch $@

# Without peers the benchmark lacks columns, so failed downloads are reported and no errors.
$(READY)-peers: $(READY)-bench
	@touch $@; for peer in $(PEERS); do $(PIP) install $$peer || \
	  { rm -f $@; echo "$$peer could not be installed; measuring without it" >&2; }; done
