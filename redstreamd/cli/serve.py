"""``redstreamd serve``: the daemon.

The settings are checked and failed starts are waited out before the daemon is imported, which takes a
second of a core: a service that cannot start costs next to nothing, however many clients come.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redstreamd.cli.options import add_settings_options, with_settings
from redstreamd.cli.terminal import complain
from redstreamd.errors import NotNowError, SettingsError
from redstreamd.startup.unavailable import answer_clients, inherited_listeners

if TYPE_CHECKING:
    import socket

    from redstreamd.settings import Loaded
    from redstreamd.startup.failed_starts import Pause


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("serve", help="run the daemon", allow_abbrev=False)
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop; where that cannot be, the clients of sockets handed over are told why."""
    # Taken now, because the daemon closes the sockets that it was handed over.
    listeners = inherited_listeners()
    watched = _where_settings_lie(arguments)

    def tell(reason: str, *, may_pass: bool) -> None:
        if not listeners:
            return
        message = f"redstreamd cannot start: {reason}"
        _show_status(message)
        if may_pass:
            # The next start is due at once, or paced; it has the reason.
            answer_clients(listeners, message, linger_seconds=0.2, most_seconds=2.0)
        else:
            answer_clients(listeners, message, watched=watched)

    def serve(loaded: Loaded) -> int:
        from redstreamd.startup.state_directory import check_state_directory

        check_state_directory(loaded.settings.daemon.state_directory)
        # Without one, nobody starts it again by itself.
        has_service_manager = bool(os.environ.get("NOTIFY_SOCKET"))
        return _serve_paced(loaded, listeners, watched) if has_service_manager else _serve(loaded)

    return with_settings(arguments, serve, tell=tell)


def _serve(loaded: Loaded, on_ready: Callable[[], None] | None = None) -> int:
    from redstreamd.daemon.daemon import serve

    return serve(loaded, on_ready=on_ready)


def _serve_paced(loaded: Loaded, listeners: list[socket.socket], watched: list[str]) -> int:
    """Serve, after a pause if the processes before this one have failed, and record how this one ends."""
    from redstreamd.startup.failed_starts import FailedStarts

    starts = FailedStarts(str(loaded.settings.daemon.state_directory))

    def end(number: int, frame: object) -> None:
        # Outside the time in which the daemon handles the signal itself: a start that somebody stops has not
        # failed. It is never taken back, because after a failure the clients have yet to be told.
        starts.end()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, end)
    try:
        _wait_out(starts.begin(), listeners, watched)
        status = _serve(loaded, on_ready=starts.note_ready)
    except SettingsError:
        starts.end()
        raise
    except NotNowError as failed:
        starts.note_reason(str(failed))
        raise
    if status == os.EX_OK:
        starts.end()
    return status


def _wait_out(pause: Pause, listeners: list[socket.socket], watched: list[str]) -> None:
    if not pause.seconds:
        return
    if pause.served:
        message = (
            f"redstreamd has failed {pause.failures:.0f} times of late; it starts in {pause.seconds:.1f} s"
        )
        told: list[socket.socket] = []  # they wait in the backlog: they will be served
    else:
        why = pause.reason or "it failed before it could serve; `journalctl -u redstreamd` says why"
        message = (
            f"redstreamd cannot start: {why} (tried {pause.failures:.0f} times of late, and again within "
        )
        message += f"{pause.seconds:.0f} s)"
        told = listeners
    complain(message.removeprefix("redstreamd "))  # which is how a record begins anyway
    _show_status(message)
    forever = 2 * pause.seconds
    answer_clients(
        told,
        message,
        watched=watched,
        most_seconds=pause.seconds,
        empty_seconds=forever,
        linger_seconds=forever,
    )


def _where_settings_lie(arguments: argparse.Namespace) -> list[str]:
    """Return what changes when somebody mends the settings, as far as that can be seen from here.

    systemd makes directories of its generators anew at each ``daemon-reload``, which follows a change of a
    unit.
    """
    systemd = ["/run/systemd", f"{os.environ.get('XDG_RUNTIME_DIR', '/run')}/systemd"]
    return [
        arguments.config or "/etc/redstreamd/redstreamd.toml",
        "/etc/redstreamd/environment",
        *dict.fromkeys(systemd),
    ]


def _show_status(message: str) -> None:
    """Show `message` in ``systemctl status``."""
    from redstreamd.service.notify import Notifier

    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
    notifier.status(message)
    notifier.close()
