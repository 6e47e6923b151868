"""``redstreamd serve``: the daemon.

Settings are checked, and pauses after failed starts made, before anything else is imported, which takes a
second of processor time. So a service that cannot start costs little, however many clients connect.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redstreamd.cli.options import add_settings_options, load_from, own_files, with_settings
from redstreamd.cli.terminal import print_error
from redstreamd.errors import NotNowError, SettingsError
from redstreamd.errors.remedies import ENVIRONMENT_FILE, THE_ENVIRONMENT
from redstreamd.startup.start_without_collector import collect_nothing
from redstreamd.startup.unavailable import answer_clients, inherited_listeners

if TYPE_CHECKING:
    import socket

    from redstreamd.settings import Loaded
    from redstreamd.startup.failed_starts import Pause

#: Names this process where several share sockets (`daemon.instance`); known before the settings are.
_INSTANCE: Final = "REDSTREAMD_DAEMON_INSTANCE"


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("serve", help="run the daemon", allow_abbrev=False)
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped. If that is impossible, answer the clients of inherited sockets with the reason."""
    collect_nothing()
    # Duplicated now, because the daemon closes the inherited sockets.
    listeners = inherited_listeners()
    if os.environ.get(_INSTANCE):
        # The other processes that share the sockets serve their clients.
        listeners.clear()
    watched = _settings_paths(arguments)

    def answer(reason: str, *, temporary: bool) -> None:
        if not listeners:
            return
        message = f"redstreamd cannot start: {reason}"
        _show_status(message)
        if temporary:
            # The service manager starts the next process soon; it knows the reason.
            answer_clients(listeners, message, linger_seconds=0.2, most_seconds=2.0)
        else:
            answer_clients(listeners, message, watched=watched)

    def serve(loaded: Loaded) -> int:
        from redstreamd.settings.configured_lease_key import read_lease_key
        from redstreamd.startup.state_directory import check_state_directory

        daemon = loaded.settings.daemon
        check_state_directory(daemon.state_directory, daemon.instance)
        read_lease_key(daemon)
        # Without a service manager the daemon is not restarted automatically.
        has_service_manager = bool(os.environ.get("NOTIFY_SOCKET"))
        load = partial(load_from, arguments)
        if has_service_manager:
            return _serve_paced(loaded, load, listeners, watched)
        return _serve(loaded, load)

    return with_settings(arguments, serve, on_failure=answer)


def _serve(loaded: Loaded, load: Callable[[], Loaded], on_ready: Callable[[], None] | None = None) -> int:
    from redstreamd.daemon.daemon import serve

    return serve(loaded, load=load, on_ready=on_ready)


def _serve_paced(
    loaded: Loaded, load: Callable[[], Loaded], listeners: list[socket.socket], watched: list[str]
) -> int:
    """Serve, after a pause if earlier processes failed, and record how this process ends."""
    from redstreamd.startup.failed_starts import FailedStarts
    from redstreamd.startup.state_directory import own_state

    daemon = loaded.settings.daemon
    starts = FailedStarts(str(own_state(daemon.state_directory, daemon.instance)))

    def end(number: int, frame: object) -> None:
        # Before and after the daemon handles the signal itself: a start that is stopped has not failed. The
        # handler stays installed, because after a failure clients are still being answered.
        starts.end()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, end)
    try:
        _pause(starts.begin(), listeners, watched)
        status = _serve(loaded, load, on_ready=starts.note_ready)
    except SettingsError:
        starts.end()
        raise
    except NotNowError as failed:
        starts.note_reason(str(failed))
        raise
    if status == os.EX_OK:
        starts.end()
    return status


def _pause(pause: Pause, listeners: list[socket.socket], watched: list[str]) -> None:
    if not pause.seconds:
        return
    if pause.served:
        message = (
            f"redstreamd has failed {pause.failures:.0f} times of late; it starts in {pause.seconds:.1f} s"
        )
        answered: list[socket.socket] = []  # clients wait in the backlog and are served after the pause
    else:
        why = pause.reason or "it failed before it could serve; `journalctl -u redstreamd` says why"
        message = (
            f"redstreamd cannot start: {why} (tried {pause.failures:.0f} times of late, and again within "
        )
        message += f"{pause.seconds:.0f} s)"
        answered = listeners
    print_error(message.removeprefix("redstreamd "))  # print_error adds the name
    _show_status(message)
    longer = 2 * pause.seconds
    answer_clients(
        answered,
        message,
        watched=watched,
        most_seconds=pause.seconds,
        empty_seconds=longer,
        linger_seconds=longer,
    )


def _settings_paths(arguments: argparse.Namespace) -> list[str]:
    """Return the paths whose change may mean that the settings were corrected.

    A ``daemon-reload``, which follows a change of a unit, makes systemd create its generators' directories
    again.
    """
    systemd = ["/run/systemd", f"{os.environ.get('XDG_RUNTIME_DIR', '/run')}/systemd"]
    settings, variables = own_files(arguments.config)
    return [
        settings,
        ENVIRONMENT_FILE if variables == THE_ENVIRONMENT else variables,
        *dict.fromkeys(systemd),
    ]


def _show_status(message: str) -> None:
    """Show `message` in ``systemctl status``."""
    from redstreamd.service.notify import Notifier

    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
    notifier.status(message)
    notifier.close()
