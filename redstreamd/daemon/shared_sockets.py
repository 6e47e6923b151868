"""Shares the sockets of the service manager with the other processes that it gives them to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from redstreamd.daemon.sockets import OpenListener
from redstreamd.mcpio.process_table import ProcessTable
from redstreamd.mcpio.shared_listener import SharedListener
from redstreamd.settings import DaemonSettings

TABLE: Final = "processes"
"""The file of the state directory in which the processes that share sockets tell each other of themselves."""


class ProcessLine(msgspec.Struct, frozen=True):
    """One of the processes that share sockets, in a report.

    Attributes:
        instance: Its name; empty for the process without one.
        pid: Its process ID.
        connections: Its open connections.
    """

    instance: str
    pid: int
    connections: int


class Sharing(msgspec.Struct, frozen=True):
    """Who this process is, and with whom it shares its sockets.

    Attributes:
        instance: Its name (`daemon.instance`); empty without one.
        processes: All processes that share a socket with it, and itself; none if the service manager passed
            on no socket.
    """

    instance: str
    processes: tuple[ProcessLine, ...]


class SharedSockets:
    """The table of the processes that have the same sockets.

    Attributes:
        listeners: The listeners, those of the service manager such that they take turns with other processes.
        table: The table; None if no socket is the service manager's, or the state directory is read-only.
    """

    def __init__(self, settings: DaemonSettings, listeners: Sequence[OpenListener]) -> None:
        """Enter this process into the table.

        Args:
            settings: Where the table lies, and how this process is called.
            listeners: The caller's.
        """
        self._instance = settings.instance or ""
        self.listeners = list(listeners)
        self.table: ProcessTable | None = None
        inherited = {
            number: each.listener
            for number, each in enumerate(listeners)
            if each.is_inherited and isinstance(each.listener, trio.SocketListener)
        }
        if not inherited:
            return
        inodes = [os.fstat(each.socket.fileno()).st_ino for each in inherited.values()]
        try:
            self.table = ProcessTable(settings.state_directory / TABLE, self._instance, inodes)
        except OSError:
            # All is served as it comes then.
            return
        for number, listener in inherited.items():
            shared = SharedListener(listener, self.table)
            self.listeners[number] = msgspec.structs.replace(listeners[number], listener=shared)

    def note(self, connections: int, is_full: bool) -> None:
        """Tell the others how many connections this process has, and whether it has no place for more."""
        if self.table is not None:
            self.table.note(connections, is_full=is_full)

    def close(self) -> None:
        """Leave all connections to the others from now on. Idempotent."""
        if self.table is not None:
            self.table.close()

    def figures(self) -> Sharing:
        """Return who this process is, and who shares its sockets."""
        processes = () if self.table is None else self.table.processes()
        lines = tuple(ProcessLine(each.name, each.pid, each.connections) for each in processes)
        return Sharing(self._instance, lines)
