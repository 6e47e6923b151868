"""Reads the settings again when it is asked to, and has the parts of the daemon take them.

Owns the order of a reload: what systemd is told, reading, checking, applying, telling clients. Which part
takes what is in `reload_table`. Settings that are not valid change nothing.
Sources: sd_notify(3) (RELOADING=1, MONOTONIC_USEC=), systemd.service(5) (Type=notify-reload).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from redstreamd.daemon.keys_in_force import read_keys
from redstreamd.daemon.reload_signal import Hangups
from redstreamd.daemon.reload_table import LISTED, Running, apply, differences, in_force
from redstreamd.daemon.settings_checks import check_files, check_settings
from redstreamd.encryption.key_ring import KeyRing
from redstreamd.errors import SettingsError
from redstreamd.service.notify import Notifier
from redstreamd.service.reload_events import ReloadEvent, ReloadRefused, SettingsReloaded
from redstreamd.settings import Loaded, Settings

KEYS: Final = "encryption.keys"


class ReloadStatistics(msgspec.Struct, frozen=True):
    """A snapshot, as the health of the daemon shows it.

    Attributes:
        reloads: How often settings were taken over.
        refused: How often they were not valid.
        changed: What the last reload changed; `KEYS` also if it is what their files hold.
        restart: What differs and needs a restart.
        refusal: Why the last reload changed nothing; None if it did not fail.
    """

    reloads: int = 0
    refused: int = 0
    changed: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    refusal: str | None = None


class Reloader:
    """Reloads the settings, one reload after the other."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Loaded],
        running: Running,
        notifier: Notifier,
        *,
        status: Callable[[], str],
        tell_clients: Callable[[], Awaitable[None]],
        report: Callable[[ReloadEvent], None],
    ) -> None:
        """Reload nothing yet.

        Args:
            settings: Those in force.
            load: Reads them again, from the same sources; on a thread.
            running: What they are applied to.
            notifier: Is told when a reload begins and ends.
            status: Returns the line for ``systemctl status``.
            tell_clients: Called when what is listed to clients has changed.
            report: Called with what came of each reload.
        """
        self._settings = settings
        self._load = load
        self._running = running
        self._notifier = notifier
        self._status = status
        self._tell_clients = tell_clients
        self._report = report
        self._statistics = ReloadStatistics()
        self._scope = trio.CancelScope()

    def statistics(self) -> ReloadStatistics:
        """Return a snapshot."""
        return self._statistics

    def notice(self) -> str:
        """Return what the status line begins with if the last reload has failed; else nothing."""
        refusal = self._statistics.refusal
        return "" if refusal is None else f"settings not reloaded: {refusal}"

    async def run(
        self,
        hangups: Hangups,
        ready: trio.Event,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Reload whenever that is asked for, until `stop`; once the daemon is ready, and not before.

        Cancellation: settings that were read are applied by all parts or by none.
        """
        task_status.started()
        with self._scope:
            while True:
                await hangups.next_reload()
                await ready.wait()
                await self.reload()

    def stop(self) -> None:
        """Reload no more: the daemon is stopping."""
        self._scope.cancel()

    async def reload(self) -> None:
        """Read the settings, and apply them if they are valid; never fails because of them."""
        self._notifier.reloading()
        try:
            loaded, ring, findings = await trio.to_thread.run_sync(self._read)
        except (SettingsError, OSError) as invalid:
            self._refuse(str(invalid))
        else:
            await self._take(loaded, ring, findings)
        # Not if it is cancelled: then the daemon stops, and has said so.
        self._notifier.ready(self._status())

    def _read(self) -> tuple[Loaded, KeyRing, tuple[str, ...]]:
        """Return valid settings, the keys that they name, and sentences about what has no effect."""
        loaded = self._load()
        findings = check_settings(loaded)
        check_files(loaded)
        self._running.check(loaded.settings)
        return loaded, read_keys(loaded.settings), findings

    def _refuse(self, reason: str) -> None:
        before = self._statistics
        self._statistics = msgspec.structs.replace(before, refused=before.refused + 1, refusal=reason)
        self._report(ReloadRefused(reason))

    async def _take(self, loaded: Loaded, ring: KeyRing, findings: tuple[str, ...]) -> None:
        read = loaded.settings
        settings = in_force(self._settings, read)
        changed = tuple(differences(self._settings, settings))
        restart = tuple(differences(settings, read))
        loaded.note_sources(kept=restart)
        if apply(self._running, frozenset(changed), settings, ring) and KEYS not in changed:
            changed += (KEYS,)
        self._settings = settings
        self._statistics = ReloadStatistics(
            self._statistics.reloads + 1, self._statistics.refused, changed, restart
        )
        self._report(SettingsReloaded(changed, restart, findings))
        if changed:
            # The first calls of what is new would make it on the event loop.
            await trio.to_thread.run_sync(self._running.parts.toolbox.compile)
        if not LISTED.isdisjoint(changed):
            await self._tell_clients()
