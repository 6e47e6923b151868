"""The results of checks. ``cli.doctor`` prints them."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

import attrs

from redstreamd.errors import SettingsError


class Severity(enum.StrEnum):
    """The severity of a result; part of the public interface of ``doctor --json``."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


_STATUS: Final = {Severity.OK: 0, Severity.SKIPPED: 0, Severity.WARNING: 1, Severity.ERROR: 2}


@attrs.frozen
class CheckResult:
    """The result of one check.

    Attributes:
        check: The name of the check; stable, for programs.
        severity: Its severity.
        tried: What was done.
        seen: What was found; for a skipped check, the reason. Never a secret.
        todo: What an operator can do; empty if nothing.
    """

    check: str
    severity: Severity
    tried: str
    seen: str
    todo: str = ""


def ok(check: str, tried: str, seen: str, todo: str = "") -> CheckResult:
    """Return a result without a problem; `todo` may suggest an improvement."""
    return CheckResult(check, Severity.OK, tried, seen, todo)


def warning(check: str, tried: str, seen: str, todo: str) -> CheckResult:
    """Return a result that affects a part of the work, or will cause a problem."""
    return CheckResult(check, Severity.WARNING, tried, seen, todo)


def error(check: str, tried: str, seen: str, todo: str) -> CheckResult:
    """Return a result that prevents redstreamd from working."""
    return CheckResult(check, Severity.ERROR, tried, seen, todo)


def skipped(check: str, tried: str, reason: str) -> CheckResult:
    """Return the result of a check that was not run."""
    return CheckResult(check, Severity.SKIPPED, tried, reason)


def exit_status(checks: Iterable[CheckResult]) -> int:
    """Return 0, 1 if there are warnings, 2 if there are errors."""
    return max((_STATUS[check.severity] for check in checks), default=0)


def invalid_settings(invalid: SettingsError, *, of: str = "") -> list[CheckResult]:
    """Return the report when the settings are not valid, so that nothing else can be checked.

    Args:
        invalid: The error.
        of: The unit whose settings they are; empty for those of the caller's shell.
    """
    again = "`sudo redstreamd doctor`" if of else "`redstreamd check-config`"
    return [
        error(
            "settings",
            f"reading the settings file, the environment and the command line{f' of {of}' if of else ''}",
            str(invalid),
            f"Correct {invalid.key}; then {again} says whether the settings are valid.",
        )
    ]
