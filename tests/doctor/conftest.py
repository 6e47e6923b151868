"""Checks real servers with the test's own settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from redstreamd.doctor import CheckResult, run_checks
from redstreamd.settings import load

#: The names of all checks, in order, where no service is installed.
CHECKS = [
    *(
        "settings",
        "descriptors",
        "listeners",
        "policy",
        "encryption",
        "name_resolution",
        "connect",
        "tls",
        "login",
        "topology",
        "permissions",
        "version",
        "tracking",
        "scripts",
    ),
    *("persistence", "memory", "replication", "clock", "streams", "secrets", "socket", "http", "unit"),
]

Report = dict[str, CheckResult]
Examine = Callable[..., Awaitable[Report]]


@pytest.fixture
def report(tmp_path: Path) -> Examine:
    """Examine what the settings given name; returns the checks by their names, in order."""

    async def examined(environ: dict[str, str] | None = None, **settings: object) -> Report:
        file = tmp_path / "redstreamd.toml"
        file.write_text("")
        # Without the environment of the user who runs the tests.
        around = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), **(environ or {})}
        assignments = [f"redis.{key}={value}" for key, value in settings.items()]
        loaded = load(config=file, assignments=assignments, environ=around)
        checks = await run_checks(loaded, environ=around)
        assert len({check.check for check in checks}) == len(checks)
        return {check.check: check for check in checks}

    return examined
