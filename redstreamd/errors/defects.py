"""Exceptions that nobody foresaw, caught where others depend on the work going on.

Like `sys.unraisablehook`: they arise in callbacks that cannot raise to anybody, in every part, so there is
one hook for the process. The daemon makes records of them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import msgspec


class Defect(msgspec.Struct, frozen=True):
    """An exception that nobody foresaw.

    Attributes:
        what: What failed, such as "the status line failed".
        error: The exception.
    """

    what: str
    error: BaseException


DefectHook = Callable[[Defect], None]


def _print(defect: Defect) -> None:
    sys.stderr.write(f"{defect.what}\n{''.join(traceback.format_exception(defect.error))}")


_hook: DefectHook = _print


def report_defect(what: str, error: BaseException) -> None:
    """Report an exception that was caught and goes no further."""
    _hook(Defect(what, error))


def on_defect(hook: DefectHook) -> DefectHook:
    """Report defects to `hook` from now on, which must neither block nor raise; return the former hook.

    Without one they are printed to standard error.
    """
    global _hook
    former, _hook = _hook, hook
    return former
