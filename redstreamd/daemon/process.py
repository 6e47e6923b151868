"""Runs the daemon as a process: logging, crash dump, limit of descriptors and exit status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from redstreamd.daemon.background_import import ImportFailedError
from redstreamd.errors import NotNowError
from redstreamd.event_log.daemon_events import CannotLoad, CannotStart
from redstreamd.event_log.process_log import ProcessLog, set_up_log
from redstreamd.mcpio.listeners import ListenError
from redstreamd.service.crash_dump import install_crash_dump
from redstreamd.service.embedded.process_lock import StateDirectoryInUseError
from redstreamd.service.exceptions import (
    ChildHungError,
    StartFailedError,
    TerminateTree,
    TooManyFailuresError,
    unwrapped,
)
from redstreamd.service.freed_memory import reuse_large_blocks
from redstreamd.settings import Loaded
from redstreamd.startup.descriptors import raise_descriptor_limit

# sysexits.h
_SOFTWARE = 70

_LOGGED_BY_SUPERVISOR = (StartFailedError, TooManyFailuresError, ChildHungError, TerminateTree)


def run_process(main: Callable[[Loaded, ProcessLog], Awaitable[None]], loaded: Loaded) -> int:
    """Run `main` under trio and return the exit status.

    That is 0, or 70 if a module cannot be imported or the supervisor gave up.

    Raises:
        SettingsError: The settings cannot work here.
        NotNowError: An address or the state directory is in use; the error is logged.
    """
    settings = loaded.settings
    log = set_up_log(
        settings.daemon.log_level,
        settings.daemon.log_format,
        secrets=filter(None, [settings.redis.password, settings.redis.sentinel_password]),
        instance=settings.daemon.instance,
    )
    install_crash_dump()
    raise_descriptor_limit()
    reuse_large_blocks()
    try:
        trio.run(main, loaded, log)
    except Exception as ended:
        reason = unwrapped(ended)
        if isinstance(reason, ListenError | StateDirectoryInUseError):
            log.events(CannotStart(str(reason)))
            raise NotNowError(str(reason)) from ended
        if isinstance(reason, ImportFailedError):
            # Complete, because the cause may lie in any package.
            log.events(CannotLoad(str(reason), reason.__cause__))
            return _SOFTWARE
        if isinstance(reason, _LOGGED_BY_SUPERVISOR):
            return _SOFTWARE
        raise reason from ended
    return 0
