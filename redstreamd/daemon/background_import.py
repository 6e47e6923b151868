"""Imports modules on a thread while the event loop runs.

Imports hold the interpreter's lock almost all the time, so the interval at which it changes hands is short
meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from redstreamd.startup.start_without_collector import collect_as_usual, collect_nothing

T = TypeVar("T")

# The event loop gets the interpreter after this time, not after Python's 5 ms, unless a single operation
# takes longer: the code of a module is read, or a model of pydantic built. A shorter interval changed nothing
# that could be measured.

_SWITCH_SECONDS: Final = 0.0002


class ImportFailedError(Exception):
    """A module of the daemon could not be imported; ``__cause__`` says why."""


async def import_on_thread(load: Callable[[], T]) -> T:
    """Run `load` on a thread and return its result; no object that exists afterwards is collected as garbage.

    Not cancellable: a thread in the middle of an import cannot be left behind.

    Args:
        load: Imports modules, and builds what takes as long.

    Raises:
        ImportFailedError: `load` has raised an exception, which is the cause.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    collect_nothing()
    try:
        return await trio.to_thread.run_sync(load)
    except Exception as failed:
        raise ImportFailedError(f"{type(failed).__name__}: {failed}") from failed
    finally:
        collect_as_usual()
        sys.setswitchinterval(interval)
