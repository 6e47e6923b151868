"""Where log records go: standard error, in the form that whoever reads it understands.

Owns the form of the lines and the promise that logging never stalls the event loop. Which
records there are, and their words, are `redstreamd.event_log.texts`'s and their loggers' own.

Three readers. journald takes a ``<N>`` syslog priority before each line (sd-daemon(3)) and
knows the time. A person, and anything else that collects lines, gets time and level.

Standard error is often read by somebody who stops reading: journald while it is stopped or
its disk hangs, or an MCP client that starts ``redstreamd stdio`` and ignores the pipe. A
blocking write would then stop every client. So writes do not block; what cannot be written
waits in a bounded backlog, what does not fit is dropped and counted, and the count is
reported once there is room. There is no writer thread: what was logged before a crash has
left the process.

Secrets are masked where they are known; the texts given as `secrets` are also masked here,
in whatever message or traceback they turn up.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping

import attrs
import trio

from redstreamd.service.nonblocking_writer import NonblockingWriter

# Enough to ride out a restart of journald at a rate far above ours; small beside the daemon itself.
BACKLOG_BYTES = 1024 * 1024

# journald cuts a line at 48 KiB (LineMax= in journald.conf(5)), and the rest of it would have lost
# its priority; nothing that a person reads is as long.
LINE_CHARACTERS = 8_192

# A shorter text is too likely to be part of something else.
_SECRET_CHARACTERS = 6
_MASK = "********"

# What would hide a record in the journal ("blob data") or steer the terminal it is read on:
# controls except newline and tab, and the two separators that some viewers break lines at.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@attrs.frozen
class LogStatistics:
    """What became of the records so far.

    Attributes:
        written: Records handed to the reader in full.
        dropped: Records that did not fit into the backlog, or whose reader had gone.
        backlog_bytes: What waits for the reader now.
    """

    written: int
    dropped: int
    backlog_bytes: int


def set_up_logging(level: str = "info", *, secrets: Iterable[str] = (), descriptor: int = 2) -> LogOutput:
    """Send the records of this process to standard error; called again, it replaces what it did before.

    Libraries are heard from warnings up, and from information up if `level` is ``debug``: their own
    debug records can show what clients send.

    Args:
        level: The least severe record of redstreamd that is written: ``debug``, ``info``,
            ``warning`` or ``error``.
        secrets: Texts that must not be written; those under six characters are not looked for.
        descriptor: Where to write, for tests.

    Returns:
        The output; its `run` is to be supervised, so that a backlog is written as soon as it can be.
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
    """Tell whether a descriptor is the journal's stream.

    systemd.exec(5): JOURNAL_STREAM holds the device and inode of the stream that was set up; it is
    inherited by processes whose standard error is something else, so it has to be compared.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class LogOutput(logging.Handler):
    """A handler that writes to a descriptor without blocking; for any thread, as handlers are."""

    def __init__(self, descriptor: int, *, is_journal: bool, secrets: Iterable[str] = ()) -> None:
        """Prepare to write to a duplicate of `descriptor`."""
        super().__init__()
        self._is_journal = is_journal
        # The longest first: one secret may be part of another.
        self._secrets = sorted((text for text in secrets if len(text) >= _SECRET_CHARACTERS), key=len)[::-1]
        self._sink = NonblockingWriter(descriptor, limit_bytes=BACKLOG_BYTES)
        self._reported = 0
        self._wake: Callable[[], None] | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write the backlog whenever there is one and the reader reads again, until cancelled.

        Without it, a backlog only goes out before the next record.
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
        """Write a record, or keep it for later, or drop and count it; `logging` holds the lock."""
        try:
            data = self.encoded(record)
        except Exception as exc:  # noqa: BLE001 -- arguments that do not fit their text, for instance
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
        """Write what can be written now, and close the duplicate of the descriptor."""
        if self._sink.descriptor >= 0:
            self.flush()
            self._sink.close()
        super().close()

    def encoded(self, record: logging.LogRecord) -> bytes:
        """Return a record's lines, each with the priority or all after one time, as bytes."""
        text = self.format(record)
        if not record.name.startswith("redstreamd"):
            text = f"{record.name}: {text}"
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        # What a client put into a name or a value must not look like a record of its own.
        lines = [_CONTROLS.sub(_escaped, _cut(line)) for line in text.split("\n")]
        if self._is_journal:
            prefix = f"<{_priority(record.levelno)}>"
            separator = f"\n{prefix}  "
        else:
            at = dt.datetime.fromtimestamp(record.created, dt.UTC)
            prefix = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z {record.levelname:<8} "
            separator = "\n  "
        return f"{prefix}{separator.join(lines)}\n".encode("utf-8", "backslashreplace")

    def _report_dropped(self) -> None:
        """Say how many records were lost, as soon as the reader has everything else."""
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


def _escaped(control: re.Match[str]) -> str:
    return control.group().encode("unicode_escape").decode("ascii")
