"""What a check comes to, as a value. How it is printed is ``cli.doctor``'s business."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

import attrs

from redstreamd.errors import SettingsError


class Severity(enum.StrEnum):
    """How much a result matters; part of the public interface of ``doctor --json``."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


_STATUS: Final = {Severity.OK: 0, Severity.SKIPPED: 0, Severity.WARNING: 1, Severity.ERROR: 2}


@attrs.frozen
class Check:
    """The result of one check.

    Attributes:
        check: Its name, stable, for programs.
        severity: How much it matters.
        tried: What was done to find out.
        seen: What came of it; for a skipped one, why it was not tried. Never a secret.
        todo: What an operator can do about it; empty if there is nothing to do.
    """

    check: str
    severity: Severity
    tried: str
    seen: str
    todo: str = ""


def ok(check: str, tried: str, seen: str, todo: str = "") -> Check:
    """Return a result that is as it should be; `todo` may still name an improvement."""
    return Check(check, Severity.OK, tried, seen, todo)


def warning(check: str, tried: str, seen: str, todo: str) -> Check:
    """Return a result that will cause trouble, or does so for a part of the work."""
    return Check(check, Severity.WARNING, tried, seen, todo)


def error(check: str, tried: str, seen: str, todo: str) -> Check:
    """Return a result that keeps redstreamd from working."""
    return Check(check, Severity.ERROR, tried, seen, todo)


def skipped(check: str, tried: str, reason: str) -> Check:
    """Return the result of a check that was not made."""
    return Check(check, Severity.SKIPPED, tried, reason)


def exit_status(checks: Iterable[Check]) -> int:
    """Return 0 if all is well, 1 if there are warnings, 2 if there are errors."""
    return max((_STATUS[check.severity] for check in checks), default=0)


def invalid_settings(invalid: SettingsError, *, of: str = "") -> list[Check]:
    """Return the report when the settings themselves are not valid: nothing else can be asked.

    Args:
        invalid: What is wrong.
        of: The unit whose settings they are; empty for those of the caller's shell.
    """
    again = "`sudo redstreamd doctor`" if of else "`redstreamd check-config`"
    return [
        error(
            "settings",
            f"reading the settings file, the environment and the command line{f' of {of}' if of else ''}",
            str(invalid),
            f"Correct {invalid.key}; {again} says if the settings are valid then.",
        )
    ]
