"""Log lines as their readers get them, and readers that stop reading."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from redstreamd.errors.defects import Defect, on_defect, report_defect
from redstreamd.event_log.daemon_events import CannotLoad, Stopping, StoppingAtOnce
from redstreamd.event_log.library_records import LibraryHandler
from redstreamd.event_log.process_log import ProcessLog, set_up_log
from redstreamd.service.log_forms import LINE_CHARACTERS
from redstreamd.service.log_output import BACKLOG_BYTES, LogOutput, is_journal
from redstreamd.service.log_record import Record, Severity
from tests.support.measured import measured

SetUp = Callable[..., LogOutput]

ID = "0" * 31 + "1"


def record(text: str, severity: Severity = Severity.INFO, traceback: str = "") -> Record:
    return Record(severity, ID, "an_event", text, (), traceback)


@pytest.fixture
def set_up_all() -> Iterator[Callable[..., ProcessLog]]:
    """set_up_log(), undone afterwards."""
    root = logging.getLogger()
    level, former = root.level, on_defect(lambda _defect: None)
    logs: list[ProcessLog] = []

    def set_up(*args: Any, **options: Any) -> ProcessLog:
        logs.append(set_up_log(*args, **options))
        return logs[-1]

    yield set_up
    for log in logs:
        log.output.close()
    for handler in root.handlers[:]:
        if isinstance(handler, LibraryHandler):
            root.removeHandler(handler)
    root.setLevel(level)
    on_defect(former)


@pytest.fixture
def set_up() -> Iterator[SetUp]:
    """An output without a daemon around it."""
    outputs: list[LogOutput] = []

    def set_up(**options: Any) -> LogOutput:
        text = "{} log records were dropped, because nobody read them in time"
        outputs.append(
            LogOutput(
                **{"form": "text", **options},
                dropped=lambda count: record(text.format(count), Severity.WARNING),
            )
        )
        return outputs[-1]

    yield set_up
    for output in outputs:
        output.close()


class Reader:
    """The other end of the stream that the process logs to."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self._ours = ours
        self.descriptor = theirs.fileno()
        self._data = b""

    def lines(self) -> list[str]:
        """Everything that has arrived in whole lines, without waiting."""
        while True:
            try:
                data = self._ours.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            self._data += data
        whole, newline, self._data = self._data.rpartition(b"\n")
        return whole.decode().split("\n") if newline else []


@pytest.fixture
def plain() -> Iterator[Reader]:
    """A socket that is not the journal."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Reader(ours, theirs)


@pytest.fixture
def journal(plain: Reader, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A socket that systemd would have announced as the journal's."""
    status = os.fstat(plain.descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    return plain


def test_the_journals_stream_gets_a_priority_and_no_time(journal: Reader, set_up: SetUp) -> None:
    output = set_up(descriptor=journal.descriptor)
    for severity in Severity:
        output.write(record(f"at {severity}", severity))
    assert journal.lines() == ["<2>at 2", "<3>at 3", "<4>at 4", "<5>at 5", "<6>at 6", "<7>at 7"]


def test_everyone_else_gets_time_and_level_in_utc(plain: Reader, set_up: SetUp) -> None:
    output = set_up(descriptor=plain.descriptor)
    begun_at = time.time()
    output.write(record("the disk is almost full", Severity.WARNING))
    [line] = plain.lines()
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z WARNING  the disk is almost full", line)
    assert found is not None
    at = dt.datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
    assert begun_at - 0.001 <= at <= time.time()


def test_programs_get_what_journalctl_prints_as_json(plain: Reader, set_up: SetUp) -> None:
    output = set_up(descriptor=plain.descriptor, form="json", secrets=["hunter22"])
    streams = (("STREAM", "a"), ("STREAM", "b"), ("STREAM", "hunter22"), ("GROUP", "g"))
    output.write(Record(Severity.ERROR, ID, "an_event", "it\nfailed \ud800", streams, "Traceback:\n  x"))
    [line] = plain.lines()
    value = json.loads(line)
    assert abs(int(value.pop("__REALTIME_TIMESTAMP")) / 1e6 - time.time()) < 60
    assert value == {
        "MESSAGE": "it\nfailed \\ud800\nTraceback:\n  x",
        "PRIORITY": "3",
        "MESSAGE_ID": ID,
        "SYSLOG_IDENTIFIER": "redstreamd",
        "REDSTREAMD_EVENT": "an_event",
        "REDSTREAMD_STREAM": ["a", "b", "********"],
        "REDSTREAMD_GROUP": "g",
        "REDSTREAMD_TRACEBACK": "Traceback:\n  x",
    }


def test_a_stream_that_is_not_the_announced_one_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        status = os.fstat(ours.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(ours.fileno())
        assert not is_journal(theirs.fileno())
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not is_journal(ours.fileno())
        closed = ours.fileno()
    assert not is_journal(closed)


def test_levels_apply_to_us_and_libraries_are_heard_from_warnings_up(
    journal: Reader, set_up_all: Callable[..., ProcessLog]
) -> None:
    log = set_up_all("warning", "text", descriptor=journal.descriptor)
    log.events(Stopping())
    log.events(StoppingAtOnce())
    logging.getLogger("mcp.server").info("theirs, info")
    logging.getLogger("mcp.server").warning("theirs, warning")
    assert journal.lines() == ["<4>stopping at once", "<4>mcp.server: theirs, warning"]
    log.set_level("info")
    log.events(Stopping())
    assert journal.lines() == ["<6>stopping: answering what is in flight"]


def test_debug_records_of_libraries_are_never_written(
    journal: Reader, set_up_all: Callable[..., ProcessLog]
) -> None:
    set_up_all("debug", "text", descriptor=journal.descriptor)
    logging.getLogger("mcp.server").debug("what a client sent")
    logging.getLogger("mcp.server").info("theirs, info")
    assert journal.lines() == ["<6>mcp.server: theirs, info"]


def test_setting_up_again_replaces_the_earlier_output(
    plain: Reader, journal: Reader, set_up_all: Callable[..., ProcessLog]
) -> None:
    set_up_all("info", "text", descriptor=journal.descriptor)
    set_up_all("info", "text", descriptor=journal.descriptor)
    logging.getLogger("trio").error("once")
    report_defect("a part failed", ValueError("also once"))
    assert journal.lines() == ["<3>trio: once", "<3>a part failed", "<3>  ValueError: also once"]


def test_each_line_of_a_record_carries_its_priority(journal: Reader, set_up: SetUp) -> None:
    output = set_up(descriptor=journal.descriptor)
    output.write(record("first\nsecond\n\nfourth", Severity.ERROR))
    assert journal.lines() == ["<3>first", "<3>  second", "<3>  ", "<3>  fourth"]


def test_tracebacks_stay_with_their_record(journal: Reader, set_up_all: Callable[..., ProcessLog]) -> None:
    log = set_up_all("info", "text", descriptor=journal.descriptor)
    try:
        raise ValueError("broken")
    except ValueError as error:
        log.events(CannotLoad("it", error))
        log.events(Defect("it failed", error))
    lines = journal.lines()
    assert lines[0].startswith("<2>cannot load the daemon: it; ")
    assert lines[1] == "<2>  Traceback (most recent call last):"
    defect = lines[lines.index("<3>it failed") :]
    assert defect[1] == "<3>  Traceback (most recent call last):"
    assert defect[-1] == "<3>  ValueError: broken"


def test_what_a_client_sent_cannot_pose_as_a_record_or_steer_a_terminal(
    journal: Reader, set_up: SetUp
) -> None:
    output = set_up(descriptor=journal.descriptor)
    sent = "x\n<0>the disk is on fire\r\x1b[2Jgone\x00\x85\u2028\ud800"
    output.write(record(f"stream {sent}"))
    assert journal.lines() == [
        "<6>stream x",
        r"<6>  <0>the disk is on fire\u000d\u001b[2Jgone\u0000\u0085\u2028\ud800",
    ]


def test_an_endless_line_is_cut_where_journald_would_split_it(journal: Reader, set_up: SetUp) -> None:
    set_up(descriptor=journal.descriptor).write(record("x" * 100_000))
    [line] = journal.lines()
    assert line == f"<6>{'x' * LINE_CHARACTERS}... (100000 characters)"


def test_known_secrets_are_masked_in_messages_and_in_tracebacks(journal: Reader, set_up: SetUp) -> None:
    output = set_up(descriptor=journal.descriptor, secrets=["hunter22", "hunter2222", "abc"])
    output.write(record("cannot log in with 'hunter2222'", traceback="redis://bob:hunter22@localhost"))
    assert journal.lines() == [
        "<6>cannot log in with '********'",
        "<6>  redis://bob:********@localhost",
    ]


def test_a_secret_too_short_to_look_for_does_not_garble_the_log(journal: Reader, set_up: SetUp) -> None:
    set_up(descriptor=journal.descriptor, secrets=["", "e"]).write(record("serene"))
    assert journal.lines() == ["<6>serene"]


def test_a_record_of_a_library_whose_arguments_do_not_fit_is_reported_with_its_place(
    journal: Reader, set_up_all: Callable[..., ProcessLog]
) -> None:
    set_up_all("info", "text", descriptor=journal.descriptor)
    unusable = logging.LogRecord("mcp", logging.ERROR, "/a.py", 7, "%d entries", ("many",), None)
    handler = next(each for each in logging.getLogger().handlers if isinstance(each, LibraryHandler))
    handler.handle(unusable)
    [line] = journal.lines()
    assert line.startswith("<3>mcp: unusable record at /a.py:7: TypeError: %d format")


# Readers that stop reading


def fill(output: LogOutput, *, beyond: int = 0, took_seconds: list[float] | None = None) -> int:
    """Log until records are dropped (and `beyond` more); return how many records were logged."""
    count = 0
    while not output.statistics().dropped or beyond:
        beyond -= bool(output.statistics().dropped)
        begun_at = time.perf_counter()
        output.write(record(f"record {count:06} {'x' * 200}"))
        if took_seconds is not None:
            took_seconds.append(time.perf_counter() - begun_at)
        count += 1
    return count


def test_a_reader_that_stops_reading_stalls_nobody(journal: Reader, set_up: SetUp) -> None:
    output = set_up(descriptor=journal.descriptor)
    took_seconds: list[float] = []
    fill(output, beyond=1000, took_seconds=took_seconds)
    # Not the mean: this process may be held up in the middle of a record, for whatever time.
    with measured:
        assert statistics.median(took_seconds) < 0.001
    assert output.statistics().dropped >= 1000
    assert output.statistics().backlog_bytes <= BACKLOG_BYTES


def test_what_did_not_fit_is_counted_and_reported_and_the_rest_arrives_whole_and_in_order(
    journal: Reader, set_up: SetUp
) -> None:
    output = set_up(descriptor=journal.descriptor)
    count = fill(output, beyond=10)
    lines: list[str] = []
    while output.statistics().backlog_bytes:
        lines += journal.lines()
        output.flush()
    output.write(record("afterwards"))
    lines += journal.lines()
    numbers = [int(line.split()[1]) for line in lines if line.startswith("<6>record")]
    assert numbers == list(range(count - 11))
    assert lines[-2:] == [
        "<4>11 log records were dropped, because nobody read them in time",
        "<6>afterwards",
    ]
    assert all(len(line) == len("<6>record 000000 ") + 200 for line in lines[:-2])
    # The report itself and the last record are written, too.
    assert output.statistics().written == len(numbers) + 2


async def test_a_backlog_is_written_as_soon_as_the_reader_reads_again(journal: Reader, set_up: SetUp) -> None:
    output = set_up(descriptor=journal.descriptor)
    async with trio.open_nursery() as nursery:
        await nursery.start(output.run)
        count = fill(output)
        lines: list[str] = []
        while not any("dropped" in line for line in lines):
            lines += journal.lines()
            # Nothing more is logged: it is `run` that sees the room and uses it.
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(lines) == count - 1 + 1


async def test_a_record_of_another_thread_starts_the_writing_of_the_backlog_too(
    journal: Reader, set_up: SetUp
) -> None:
    output = set_up(descriptor=journal.descriptor)
    async with trio.open_nursery() as nursery:
        await nursery.start(output.run)
        await wait_all_tasks_blocked()
        await trio.to_thread.run_sync(fill, output)
        while output.statistics().backlog_bytes:
            journal.lines()
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def test_a_reader_that_has_gone_costs_its_records_and_nothing_else(set_up: SetUp) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            output = set_up(descriptor=theirs.fileno())
        output.write(record("to nobody"))
        output.write(record("to nobody either"))
    assert output.statistics().written == 0
    assert output.statistics().dropped >= 2
    assert output.statistics().backlog_bytes == 0


def test_a_pipe_that_nobody_reads_stalls_nobody_and_keeps_its_own_flags(set_up: SetUp) -> None:
    """As an MCP client does that starts the server and never reads its standard error."""
    reading, writing = os.pipe()
    try:
        output = set_up(descriptor=writing)
        fill(output)
        assert os.get_blocking(writing)
        drained = b""
        while output.statistics().backlog_bytes:
            drained += os.read(reading, 1 << 20)
            output.flush()
        assert drained.count(b" record ") > 1000
    finally:
        os.close(reading)
        os.close(writing)


def test_a_file_is_written_to_and_appended_to(set_up: SetUp) -> None:
    with tempfile.TemporaryDirectory(prefix="rs-") as directory:
        path = Path(directory) / "log"
        with path.open("ab") as file:
            output = set_up(descriptor=file.fileno())
            output.write(record("one"))
            output.write(record("two"))
        assert [line.split()[-1] for line in path.read_text().splitlines()] == ["one", "two"]


def test_by_default_records_go_to_standard_error() -> None:
    program = (
        "from redstreamd.event_log.process_log import set_up_log\n"
        "from redstreamd.event_log.daemon_events import Listening\n"
        "set_up_log().events(Listening('9', ('here',)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == ""
    assert done.stderr.endswith("INFO     redstreamd 9 listens on here\n")
