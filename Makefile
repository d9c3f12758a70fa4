# Every target prepares .venv by itself, so a fresh clone needs nothing but `make TARGET`.

PYTHON ?= python3
# More or fewer processes, one test, ...: make test TESTFLAGS="-n 0 -k golden"
TESTFLAGS ?= -n 2
# Less of it: make bench BENCHFLAGS="--sets MLP --optimizers SGD"
BENCHFLAGS ?=
# The benchmark's peers, pinned so that figures of different days compare; torch's CPU build is enough.
PEERS ?= torch==2.13.0 jax==0.10.2 optax==0.2.8
# One more is MXNet 2.0, of a Python that has it: make bench MXNET_PYTHON=/path/to/python

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One stamp for each set of installed packages; a changed pyproject.toml makes them stale.
READY := $(VENV)/.ready

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help train test generate check lint bench bench-quick clean

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

train: $(READY)-examples ## train on handwritten digits with every optimizer, and word embeddings
	$(BIN)/python examples/digits.py
	$(BIN)/python examples/words.py

test: $(READY)-dev ## run the tests
	$(BIN)/python -m pytest --dist loadgroup $(TESTFLAGS)

generate: $(READY) ## write generated/ from specs/
	$(BIN)/stepspec generate

check: $(READY) ## fail if generated/ is not what specs/ say
	$(BIN)/stepspec generate --check

lint: $(READY)-dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/types && mkdir -p build/types/stepspec
	@# mypy cannot follow the package mapping of pyproject.toml: links lay the folders out as they are imported
	@ln -s $(foreach path,$(wildcard runtime/*) generator generated specs,"$(CURDIR)/$(path)") build/types/stepspec/
	MYPYPATH=build/types $(BIN)/mypy --strict build/types/stepspec examples benchmarks tests

bench: $(READY)-peers ## measure the optimizers beside torch, optax and MXNet: 25 minutes
	$(BIN)/python benchmarks/bench.py $(BENCHFLAGS)

bench-quick: $(READY)-bench ## ratios before and after a change: one minute
	$(BIN)/python benchmarks/quick.py $(BENCHFLAGS)

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
