"""Writes records to journald, or to standard error, without ever blocking the event loop.

journald gets them with their fields, over its socket, where standard error leads to it or the settings say
so; without a journald they go to standard error. Whatever the form (`log_forms`), secrets are masked and
hidden characters made visible here.

The reader may stop reading: journald while it is stopped or its disk hangs, or an MCP client that ignores the
stderr of ``redstreamd stdio``. So writes do not block. Records wait in a bounded backlog; those that do not
fit are dropped, and their number is recorded once there is room. There is no writer thread, so that records
before a crash have been written.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import msgspec
import trio

from redstreamd.service.journal_socket import PATH, JournalSocket
from redstreamd.service.log_forms import INSTANCE, as_json, as_lines, as_priority_lines, cut, for_journald
from redstreamd.service.log_record import Record
from redstreamd.service.nonblocking_writer import NonblockingWriter
from redstreamd.visible_text import visible

# Enough for a restart of journald at a high rate of records.
BACKLOG_BYTES: Final = 1024 * 1024

Form = Literal["auto", "journal", "text", "json"]
"""``auto`` is ``journal`` where standard error leads to journald, and ``text`` elsewhere."""

# A shorter secret may occur in other text by chance.
_SECRET_CHARACTERS: Final = 6
_MASK: Final = "********"

# How often it is tried to reach a journald that has gone, if there are no records.
_RECONNECT_SECONDS: Final = 1.0

# How long the end of the process may wait for a reader of the last records.
_LAST_SECONDS: Final = 0.25


class LogStatistics(msgspec.Struct, frozen=True):
    """Counts of records so far.

    Attributes:
        written: Records written in full.
        dropped: Records that did not fit into the backlog, or had no reader.
        backlog_bytes: Size of the backlog now.
    """

    written: int
    dropped: int
    backlog_bytes: int


def is_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a descriptor is the journal's stream.

    JOURNAL_STREAM holds the stream's device and inode (systemd.exec(5)). Processes with another standard
    error inherit it, too.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class LogOutput:
    """Writes records without blocking; thread-safe."""

    def __init__(
        self,
        descriptor: int = 2,
        *,
        form: Form = "auto",
        secrets: Iterable[str] = (),
        instance: str | None = None,
        dropped: Callable[[int], Record],
        journal_path: str = PATH,
    ) -> None:
        """Prepare to write to journald or to a duplicate of `descriptor`.

        Args:
            descriptor: Standard error, but for tests.
            form: How records are written.
            secrets: Texts to mask in all records; those under six characters are ignored.
            instance: The name of this process, for each record, where several processes are one daemon.
            dropped: Returns the record that so many records were dropped.
            journal_path: Where journald listens.
        """
        self._secrets: list[str] = []
        self.mask(secrets)
        self._leads_to_journal = is_journal(descriptor)
        self._form = form
        self._own = () if instance is None else ((INSTANCE, instance),)
        self._stream = NonblockingWriter(descriptor, limit_bytes=BACKLOG_BYTES)
        self._journal: JournalSocket | None = None
        if form == "journal" or (form == "auto" and self._leads_to_journal):
            self._journal = JournalSocket(limit_bytes=BACKLOG_BYTES, path=journal_path)
        self._record_of_dropped = dropped
        self._reported = 0
        self._lock = threading.Lock()
        self._wake: Callable[[], None] | None = None

    def mask(self, secrets: Iterable[str]) -> None:
        """Mask these texts, too, from now on; those under six characters are ignored."""
        known = {*self._secrets, *(text for text in secrets if len(text) >= _SECRET_CHARACTERS)}
        # The longest first, because one secret may be part of another.
        self._secrets = sorted(known, key=len, reverse=True)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write the backlog whenever the reader reads again, until cancelled.

        Without this, the backlog is only written with the next record.
        """
        token = trio.lowlevel.current_trio_token()
        filled = trio.Event()

        def fill() -> None:
            filled.set()

        def wake() -> None:
            # The loop may have ended while another thread still logs.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(fill, idempotent=True)

        self._wake = wake
        try:
            task_status.started()
            while True:
                if not self.statistics().backlog_bytes:
                    await filled.wait()
                filled = trio.Event()
                await self._wait_writable()
                self.flush()
        finally:
            self._wake = None

    async def _wait_writable(self) -> None:
        """Return when more of a backlog can be written, or be tried to."""
        if self._stream.waiting_bytes:
            await trio.lowlevel.wait_writable(self._stream.descriptor)
        elif self._journal is not None and self._journal.is_connected:
            await trio.lowlevel.wait_writable(self._journal.descriptor)
        else:
            await trio.sleep(_RECONNECT_SECONDS)

    def statistics(self) -> LogStatistics:
        """Return the counts so far."""
        sinks: list[NonblockingWriter | JournalSocket] = [self._stream]
        if self._journal is not None:
            sinks.append(self._journal)
        return LogStatistics(
            sum(sink.written for sink in sinks),
            sum(sink.dropped for sink in sinks),
            sum(sink.waiting_bytes for sink in sinks),
        )

    def write(self, record: Record) -> None:
        """Write a record, or add it to the backlog, or drop it; returns at once and does not raise."""
        with self._lock:
            self._put(self.named(record))
            self._report_dropped()
            waits = self._stream.waiting_bytes or (self._journal is not None and self._journal.waiting_bytes)
        if waits and self._wake is not None:
            self._wake()

    def named(self, record: Record) -> Record:
        """Return a record with the name of this process, if it has one: `write` writes it so."""
        if not self._own or self._own[0] in record.fields:
            return record
        return msgspec.structs.replace(record, fields=(*record.fields, *self._own))

    @property
    def has_room(self) -> bool:
        """Whether most of the backlog is free: what can be left out is written only then."""
        waiting = self._stream.waiting_bytes
        if self._journal is not None:
            waiting += self._journal.waiting_bytes
        return waiting < BACKLOG_BYTES // 4

    def clean(self, line: str) -> str:
        """Return a line as it is written: shortened, secrets masked, hidden characters made visible."""
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, _MASK)
        return visible(cut(line))

    def flush(self) -> None:
        """Write as much of the backlog as can be written now."""
        with self._lock:
            self._stream.drain()
            if self._journal is not None:
                self._journal.drain()
            self._report_dropped()

    def close(self) -> None:
        """Write the backlog, within a quarter of a second, and close what was opened here."""
        if self._stream.descriptor < 0:
            return
        give_up_at = time.monotonic() + _LAST_SECONDS
        for sink in (self._stream, self._journal):
            while sink is not None and sink.waiting_bytes:
                if not _is_writable(sink.descriptor, give_up_at - time.monotonic()):
                    break
                self.flush()
                if sink is self._journal and not self._journal.is_connected:
                    break
        self._stream.close()
        if self._journal is not None:
            self._journal.close()

    def _put(self, record: Record) -> None:
        if self._journal is not None and self._journal.put(for_journald(record, self.clean)):
            return
        self._stream.put(self._for_stream(record))

    def _for_stream(self, record: Record) -> bytes:
        if self._form == "json":
            return as_json(record, self.clean, at=time.time())
        if self._leads_to_journal:
            return as_priority_lines(record, self.clean)
        return as_lines(record, self.clean, at=time.time())

    def _report_dropped(self) -> None:
        """Record how many records were dropped, once the backlog is written."""
        counts = self.statistics()
        if counts.backlog_bytes or counts.dropped == self._reported:
            return
        self._put(self._record_of_dropped(counts.dropped - self._reported))
        if self.statistics().dropped == counts.dropped:
            self._reported = counts.dropped


def _is_writable(descriptor: int, seconds: float) -> bool:
    """Return whether a descriptor can be written to within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return seconds > 0 and bool(poll.poll(seconds * 1_000))
