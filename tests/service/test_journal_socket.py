"""Records as journald gets them, and a journald that stops, goes, and is replaced."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from redstreamd.service.log_output import BACKLOG_BYTES, LogOutput
from redstreamd.service.log_record import Record, Severity
from tests.support.measured import measured

ID = "0" * 31 + "1"
#: A socket of datagrams takes so many before its reader reads (net.unix.max_dgram_qlen), and one more.
QUEUE = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1


def parsed(datagram: bytes) -> list[tuple[str, str]]:
    """Read journald's native protocol as its description says."""
    fields = []
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", datagram[:8])
            value = datagram[8 : 8 + size]
            assert datagram[8 + size : 9 + size] == b"\n"
            datagram = datagram[9 + size :]
        fields.append((name.decode(), value.decode()))
    return fields


class Journald:
    """A socket like journald's, whose datagrams a test reads when it wants to."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.in_memory = 0
        self._socket: socket.socket | None = None

    def start(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            Path(self.path).unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def vanish(self) -> None:
        self.stop()
        Path(self.path).unlink()

    def received(self) -> list[list[tuple[str, str]]]:
        """What has arrived, without waiting."""
        assert self._socket is not None
        records = []
        while True:
            try:
                data, rights, _, _ = self._socket.recvmsg(1 << 20, 100, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return records
            for _, _, handed in rights:
                (file,) = array.array("i", handed)
                self.in_memory += 1
                assert data == b""
                assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
                data = os.pread(file, os.fstat(file).st_size, 0)
                os.close(file)
            records.append(parsed(data))

    def texts(self) -> list[str]:
        return [dict(each)["MESSAGE"] for each in self.received()]


@pytest.fixture
def journald() -> Iterator[Journald]:
    with tempfile.TemporaryDirectory(prefix="rs-") as directory:
        journald = Journald(f"{directory}/socket")
        journald.start()
        yield journald
        journald.stop()


def record(text: str) -> Record:
    return Record(Severity.INFO, ID, "an_event", text, (("PRINCIPAL", "ann"),))


@pytest.fixture
def output(journald: Journald) -> Iterator[LogOutput]:
    """An output to `journald`, whose standard error is a file."""
    with tempfile.TemporaryFile() as stderr:
        output = LogOutput(
            stderr.fileno(),
            form="journal",
            secrets=["hunter22"],
            dropped=lambda count: record(f"{count} dropped"),
            journal_path=journald.path,
        )
        yield output
        output.close()


@pytest.fixture
def stderr(output: LogOutput) -> Callable[[], str]:
    """What was written to the standard error of `output`."""
    return lambda: Path(f"/proc/self/fd/{output._stream.descriptor}").read_text()


def test_a_record_has_its_fields_and_text_of_several_lines_stays_one_value(
    journald: Journald, output: LogOutput
) -> None:
    streams = (("STREAM", "a"), ("STREAM", "hunter22\nPRIORITY=0"), ("GROUP", "\ud800"))
    output.write(
        Record(Severity.ERROR, ID, "an_event", "it failed\n  at a\nPRIORITY=0", streams, "Traceback")
    )
    assert journald.received() == [
        [
            ("MESSAGE", "it failed\n  at a\nPRIORITY=0\nTraceback"),
            ("PRIORITY", "3"),
            ("MESSAGE_ID", ID),
            ("SYSLOG_IDENTIFIER", "redstreamd"),
            ("REDSTREAMD_EVENT", "an_event"),
            ("REDSTREAMD_STREAM", "a"),
            ("REDSTREAMD_STREAM", r"********\u000aPRIORITY=0"),
            ("REDSTREAMD_GROUP", r"\ud800"),
            ("REDSTREAMD_TRACEBACK", "Traceback"),
        ]
    ]
    assert output.statistics().written == 1


def test_a_record_larger_than_a_datagram_comes_as_a_file_in_memory(
    journald: Journald, output: LogOutput, stderr: Callable[[], str]
) -> None:
    tree = "\n".join(["x" * 1000] * 900)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    output.write(record(tree))
    output.write(record("small"))
    assert journald.texts() == [tree, "small"]
    assert journald.in_memory == 1
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    assert stderr() == ""


def test_a_journald_that_stops_stalls_nobody_and_what_did_not_fit_is_counted_and_told(
    journald: Journald, output: LogOutput
) -> None:
    took_seconds: list[float] = []
    count = 0
    while output.statistics().dropped < 1000:
        begun_at = time.perf_counter()
        output.write(record(f"record {count:06} {'x' * 200}"))
        took_seconds.append(time.perf_counter() - begun_at)
        count += 1
    # Not the mean: this process may be held up in the middle of a record, for whatever time.
    with measured:
        assert statistics.median(took_seconds) < 0.001
    assert BACKLOG_BYTES - 1000 < output.statistics().backlog_bytes <= BACKLOG_BYTES
    texts: list[str] = []
    while output.statistics().backlog_bytes:
        texts += journald.texts()
        output.flush()
    output.write(record("afterwards"))
    texts += journald.texts()
    assert [int(each.split()[1]) for each in texts[:-2]] == list(range(count - 1000))
    assert texts[-2:] == ["1000 dropped", "afterwards"]


async def test_a_backlog_is_sent_as_soon_as_journald_reads_again(
    journald: Journald, output: LogOutput
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(output.run)
        for number in range(3 * QUEUE):
            output.write(record(str(number)))
        assert output.statistics().backlog_bytes
        texts: list[str] = []
        while len(texts) < 3 * QUEUE:
            texts += journald.texts()
            # Nothing more is written: it is `run` that sees the room and uses it.
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert texts == [str(number) for number in range(3 * QUEUE)]


def test_a_replaced_socket_is_found_again_and_what_was_unread_is_sent_again(
    journald: Journald, output: LogOutput, stderr: Callable[[], str]
) -> None:
    for number in range(3):
        output.write(record(str(number)))
        assert journald.texts() == [str(number)]
    for number in range(3, 6):
        output.write(record(str(number)))
    journald.stop()
    journald.start()
    output.write(record("6"))
    output.write(record("7"))
    assert journald.texts() == list("34567")
    assert output.statistics().dropped == 0
    assert stderr() == ""


def test_without_a_journald_records_go_to_standard_error_until_there_is_one(
    journald: Journald, output: LogOutput, stderr: Callable[[], str]
) -> None:
    for number in range(2 * QUEUE):
        output.write(record(str(number)))
    journald.vanish()
    output.write(record("to standard error"))
    assert stderr().endswith("Z INFO     to standard error\n")
    journald.start()
    output.write(record("to the next one"))
    texts: list[str] = []
    while len(texts) < 2 * QUEUE + 1:
        texts += journald.texts()
        output.flush()
    assert texts == [*map(str, range(2 * QUEUE)), "to the next one"]
    assert output.statistics().dropped == 0
    assert output.statistics().written == len(texts) + 1


async def test_a_journald_that_comes_back_gets_the_backlog_without_another_record(
    journald: Journald, output: LogOutput
) -> None:
    for number in range(2 * QUEUE):
        output.write(record(str(number)))
    journald.vanish()
    output.flush()
    async with trio.open_nursery() as nursery:
        await nursery.start(output.run)
        await wait_all_tasks_blocked()
        assert output.statistics().backlog_bytes
        journald.start()
        texts: list[str] = []
        while len(texts) < 2 * QUEUE:
            await wait_all_tasks_blocked(0.01)
            texts += journald.texts()
        nursery.cancel_scope.cancel()
    assert texts == [str(number) for number in range(2 * QUEUE)]


def test_the_last_records_of_a_process_wait_a_moment_for_a_reader_and_no_longer(
    journald: Journald, output: LogOutput
) -> None:
    for number in range(2 * QUEUE):
        output.write(record(str(number)))
    texts: list[str] = []

    def read() -> None:
        while len(texts) < 2 * QUEUE:
            texts.extend(journald.texts())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    output.close()
    reader.join(20)
    assert texts == [str(number) for number in range(2 * QUEUE)]
