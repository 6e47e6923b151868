"""Writes log records to standard error, without ever blocking the event loop.

journald gets a ``<N>`` syslog priority before each line (sd-daemon(3)); other readers get time and level. The
texts of the records are `redstreamd.event_log.texts`'s and the loggers' own.

The reader may stop reading: journald while it is stopped or its disk hangs, or an MCP client that ignores the
stderr of ``redstreamd stdio``. So writes do not block. Records wait in a bounded backlog; those that do not
fit are dropped, and their number is logged once there is room. There is no writer thread, so that records
before a crash have been written.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
from collections.abc import Callable, Iterable, Mapping

import attrs
import trio

from redstreamd.service.nonblocking_writer import NonblockingWriter
from redstreamd.visible_text import visible

# Enough for a restart of journald at a high rate of records.
BACKLOG_BYTES = 1024 * 1024

# journald splits lines at 48 KiB (LineMax= in journald.conf(5)), and the rest would lose its priority.
LINE_CHARACTERS = 8_192

# A shorter secret may occur in other text by chance.
_SECRET_CHARACTERS = 6
_MASK = "********"


@attrs.frozen
class LogStatistics:
    """Counts of records so far.

    Attributes:
        written: Records written in full.
        dropped: Records that did not fit into the backlog, or had no reader.
        backlog_bytes: Size of the backlog now.
    """

    written: int
    dropped: int
    backlog_bytes: int


def set_up_logging(level: str = "info", *, secrets: Iterable[str] = (), descriptor: int = 2) -> LogOutput:
    """Send the records of this process to standard error; a second call replaces the first.

    Libraries log from ``warning``, or from ``info`` if `level` is ``debug``: their debug records can contain
    what clients send.

    Args:
        level: The least severe record of redstreamd that is written: ``debug``, ``info``, ``warning`` or
            ``error``.
        secrets: Texts to mask in all records; those under six characters are ignored.
        descriptor: Where to write, for tests.

    Returns:
        The handler; its `run` is to be supervised.
    """
    output = LogOutput(descriptor, is_journal=is_journal(descriptor), secrets=secrets)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, LogOutput):
            root.removeHandler(handler)
            handler.close()
    root.addHandler(output)
    root.setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.getLogger("redstreamd").setLevel(level.upper())
    return output


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


class LogOutput(logging.Handler):
    """A logging handler that writes to a descriptor without blocking; thread-safe."""

    def __init__(self, descriptor: int, *, is_journal: bool, secrets: Iterable[str] = ()) -> None:
        """Prepare to write to a duplicate of `descriptor`."""
        super().__init__()
        self._is_journal = is_journal
        # The longest first, because one secret may be part of another.
        self._secrets = sorted((text for text in secrets if len(text) >= _SECRET_CHARACTERS), key=len)[::-1]
        self._sink = NonblockingWriter(descriptor, limit_bytes=BACKLOG_BYTES)
        self._reported = 0
        self._wake: Callable[[], None] | None = None

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
                if not self._sink.waiting_bytes:
                    await filled.wait()
                filled = trio.Event()
                await trio.lowlevel.wait_writable(self._sink.descriptor)
                self.flush()
        finally:
            self._wake = None

    def statistics(self) -> LogStatistics:
        """Return the counts so far."""
        return LogStatistics(self._sink.written, self._sink.dropped, self._sink.waiting_bytes)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or add it to the backlog, or drop it; `logging` holds the handler's lock."""
        try:
            data = self.encoded(record)
        except Exception as exc:  # noqa: BLE001 -- for instance, arguments do not fit the format
            # Not handleError(): it prints to standard error, which may block.
            text = f"unusable log record at {record.pathname}:{record.lineno}: {type(exc).__name__}: {exc}"
            data = self.encoded(_record_of_ours(logging.ERROR, text))
        self._sink.put(data)
        self._report_dropped()
        if self._wake is not None and self._sink.waiting_bytes:
            self._wake()

    def flush(self) -> None:
        """Write as much of the backlog as can be written now."""
        self.acquire()
        try:
            self._sink.drain()
            self._report_dropped()
        finally:
            self.release()

    def close(self) -> None:
        """Write what can be written now, and close the duplicated descriptor."""
        if self._sink.descriptor >= 0:
            self.flush()
            self._sink.close()
        super().close()

    def encoded(self, record: logging.LogRecord) -> bytes:
        """Return a record's lines as bytes, with the priority on each or the time on the first."""
        text = self.format(record)
        if not record.name.startswith("redstreamd"):
            text = f"{record.name}: {text}"
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        # Text from a client must not look like another record, nor make one "blob data" in the journal.
        lines = [visible(_cut(line)) for line in text.split("\n")]
        if self._is_journal:
            prefix = f"<{_priority(record.levelno)}>"
            separator = f"\n{prefix}  "
        else:
            at = dt.datetime.fromtimestamp(record.created, dt.UTC)
            prefix = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z {record.levelname:<8} "
            separator = "\n  "
        return f"{prefix}{separator.join(lines)}\n".encode("utf-8", "backslashreplace")

    def _report_dropped(self) -> None:
        """Log how many records were dropped, once the backlog is written."""
        if self._sink.waiting_bytes or self._sink.dropped == self._reported:
            return
        lost = self._sink.dropped - self._reported
        text = f"{lost} log records were dropped, because nobody read them in time"
        before = self._sink.dropped
        self._sink.put(self.encoded(_record_of_ours(logging.WARNING, text)))
        if self._sink.dropped == before:
            self._reported = before


def _record_of_ours(level: int, text: str) -> logging.LogRecord:
    name = "redstreamd"
    fields = {"name": name, "msg": text, "levelno": level, "levelname": logging.getLevelName(level)}
    return logging.makeLogRecord(fields)


def _priority(level: int) -> int:
    """Return the syslog priority (syslog(3)) of a level: 2 critical, 3 error, 4 warning, 6 info, 7 debug."""
    if level >= logging.ERROR:
        return 2 if level >= logging.CRITICAL else 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def _cut(line: str) -> str:
    if len(line) <= LINE_CHARACTERS:
        return line
    return f"{line[:LINE_CHARACTERS]}... ({len(line)} characters)"
