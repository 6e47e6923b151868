# Everything a person or a machine does with a checkout. `make help` lists it.

VENV   ?= .venv
BIN    := $(VENV)/bin
# The system's own interpreter, which the service is installed with, else the first that is new enough. One of a version
# manager is often built without optimisation. `make PYTHON=/path/to/python3.12` overrides.
PYTHON ?= $(shell for can in 'import ensurepip' pass; do \
	for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c "$$can; import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $$p && break 2; done; done)

# Where `make install` puts things, all below DESTDIR.
DESTDIR    ?=
PREFIX     ?= /opt/redstreamd
UNITDIR    ?= /usr/lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
CATALOGDIR ?= /usr/lib/systemd/catalog
DOCDIR     ?= /usr/share/doc/redstreamd
CONFDIR    ?= /etc/redstreamd
# The service runs as a user without a home that may not look into anybody's, so the system's own
# interpreter is preferred to one that lies in a home directory.
SERVICE_PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo /usr/bin/python3 || echo $(PYTHON))
# -B: a checkout that root installs from gets no files of root.
INSTALLER = $(or $(SERVICE_PYTHON),$(error Python 3.11 or newer is needed, and none was found)) -B contrib/install
PLACES = --destdir='$(DESTDIR)' --prefix='$(PREFIX)' --unit-directory='$(UNITDIR)' \
	--sysusers-directory='$(SYSUSERSDIR)' --catalog-directory='$(CATALOGDIR)' \
	--doc-directory='$(DOCDIR)' --config-directory='$(CONFDIR)'

.DEFAULT_GOAL := help
.PHONY: help run test test-fast lint typecheck format generate bench bench-fast soak soak-ci release clean needs \
	install rollback uninstall install-user rollback-user uninstall-user

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Start the daemon with an embedded Valkey; Ctrl-C stops it
	@exec $(BIN)/redstreamd serve --embedded

# Programs and tests are compiled once: some environments tell Python to keep nothing that it has compiled.
test test-fast soak soak-ci: export PYTHONDONTWRITEBYTECODE =

# Much of the time the tests wait, so five processes share them, a file each; the soak, which measures, runs alone.
test: needs $(VENV)/.dev ## Set up what the tests need and run them all
	@$(BIN)/python -m compileall -q redstreamd
	$(BIN)/python -m pytest --numprocesses 5 --dist loadfile --no-loadscope-reorder

# One process more than cores, since tests wait; each test for itself, since a file is seldom much of a minute.
test-fast: needs $(VENV)/.dev ## Run the tests that take a minute together, on one kind of server
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal --hypothesis-profile fast \
		-m 'not slow and not soak and not soak_ci'

lint: $(VENV)/.dev ## Check style, naming, docstrings and trio pitfalls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.dev ## Check types strictly
	$(BIN)/mypy
	$(BIN)/mypy contrib/install contrib/release.py

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(VENV)/.dev ## Write anew what follows from the code: references, snapshots, the picture
	$(BIN)/python -m tests.support.generated

bench: needs $(VENV)/.dev ## Measure everything of docs/performance.md beside the peers; 25 minutes
	$(BIN)/python -m tests.bench

bench-fast: needs $(VENV)/.dev ## Measure a smaller part of it in five minutes; docs/ stays as it is
	$(BIN)/python -m tests.bench --fast

soak: needs $(VENV)/.dev ## The repeated faults and races at full counts; may take hours
	$(BIN)/python -m pytest -m soak

# What measures little or nothing, and waits much: three processes share it, and what is measured in spite of that is
# measured again alone where it fails (tests/support/measured.py). The rest runs alone.
SOAK_TOGETHER := $(addprefix tests/,compat contract encryption installing mcpio model systemd tools topologies)

soak-ci: needs $(VENV)/.dev ## The same with at most 25 repetitions, within 45 minutes
	@timeout --foreground --kill-after=30 45m sh -c 'status=0; \
		$(BIN)/python -m pytest -m soak_ci --numprocesses 3 --dist loadfile --no-loadscope-reorder \
			$(SOAK_TOGETHER) || status=$$?; \
		$(BIN)/python -m pytest -m soak_ci $(addprefix --ignore=,$(SOAK_TOGETHER)) || status=$$?; exit $$status'

release: $(VENV)/.dev ## Check that this commit can be released, and build sdist and wheel into dist/
	@$(BIN)/python contrib/release.py

install: ## Install the service under /opt/redstreamd, with its units (DESTDIR is honoured)
	@$(INSTALLER) install $(PLACES) --pip-python='$(PYTHON)'

rollback: ## Go back to the version that was installed before; once more goes forward again
	@$(INSTALLER) rollback $(PLACES)

uninstall: ## Remove all installed versions; settings and data stay
	@$(INSTALLER) uninstall $(PLACES)

install-user: ## Install for yourself alone, without root, with units for systemctl --user
	@$(INSTALLER) install --user --pip-python='$(PYTHON)'

rollback-user: ## Go back to your own version before
	@$(INSTALLER) rollback --user

uninstall-user: ## Remove your own versions; settings and data stay
	@$(INSTALLER) uninstall --user

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find redstreamd tests -name __pycache__ -type d -prune -exec rm -rf {} +

needs:
	@.ci/needs

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "cannot create $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# Without this option Debian's pip says at length that it installs a dependency which has no wheel in an old way.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517

# Stamps: an environment is brought up to date when the package's metadata changed.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	@echo "Installing redstreamd into $(VENV) ..."
	@$(PIP_INSTALL) -e '.[embedded,http]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing redstreamd and its development tools into $(VENV) ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.run
