"""Reads what arrives on many connections in one task, while their own tasks sleep.

To wake a task for each message takes longer than to serve most messages. So the task of a connection sleeps
in `Reader.receive`, and what has arrived is read and served where it was noticed (`Take`). The task is woken
for what is left: another kind of message, a long one, one that has to wait for something else than its turn,
the end of the stream, or an error.

Descriptors that are read so are watched by an epoll instance of their own, of which trio watches the one
descriptor. Each is reported once and then armed again when the next bytes are wanted, so whoever waits for a
turn costs nothing meanwhile, and its bytes stay in the kernel.
"""

from __future__ import annotations

import enum
import os
import select
import time
from collections.abc import Callable
from typing import Final

import outcome
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from redstreamd.admission.accounts import Account
from redstreamd.admission.turns import Turns, turns
from redstreamd.errors.defects import report_defect

#: The most that is read at once; by default a Unix socket buffers about three times as much.
READ_BYTES: Final = 65536
#: So often it is read in one pass what a connection has sent that alone has work, if it is that much.
_MOST_READS: Final = 3
_ARMED: Final = select.EPOLLIN | select.EPOLLONESHOT


class Left(enum.Enum):
    """What is left of what was read."""

    NOTHING = enum.auto()  #: Nothing, or only the beginning of a message.
    MESSAGES = enum.auto()  #: Messages that wait for another turn.
    # With any other the task has to go on.
    HELD_BACK = enum.auto()  #: Messages that wait until fewer commands of the process wait.
    LONG = enum.auto()  #: A long message, and others.
    FOR_TASK = enum.auto()  #: What is no plain call, or the end.


Take = Callable[[bytes | None], Left]
"""Takes what was read, empty at its end; None: goes on with what was left. Must not block."""


class Reader:
    """What reads from one descriptor; made by `Readers.open`.

    Attributes:
        account: On whose behalf. Invariant: it changes only while the task does not sleep, or within `Take`:
            then the reader has no place among those who wait.
        task: Sleeps in `receive`; None if none does.
        gave_up_turn: Whether it waited for a turn when its task was cancelled the last time.
    """

    __slots__ = (
        "_has_left",
        "_is_known",
        "_is_queued",
        "_place",
        "_readers",
        "_take",
        "account",
        "descriptor",
        "gave_up_turn",
        "task",
    )

    def __init__(self, readers: Readers, descriptor: int, account: Account, take: Take) -> None:
        """Made by `Readers.open`."""
        self.descriptor: Final = descriptor
        self.account = account
        self.gave_up_turn = False
        self._readers = readers
        self._take = take
        self._place: Final = (self, 0.0)
        # Whether the epoll instance has it; whether it waits for a turn, and not to read but to go on.
        self._is_known = self._is_queued = self._has_left = False
        self.task: Task | None = None

    async def receive(self) -> bool:
        """Wait until the task has to go on with what was read; False at the end of the stream.

        Always a checkpoint. Cancellation: what was read was taken.

        Raises:
            trio.BrokenResourceError: Reading failed.
            Exception: What `Take` raised.
        """
        if self._is_known:
            self._readers.arm(self.descriptor, _ARMED)
        else:
            self._readers.add(self)
            self._is_known = True
        self.task = current_task()

        def give_up(_raise_cancel: object) -> Abort:
            self.task = None
            self.gave_up_turn = self._is_queued
            if self._is_queued:
                self._is_queued = self._has_left = False
                self._readers.turns.leave(self.account, self._place)
            return Abort.SUCCEEDED

        is_open: bool = await wait_task_rescheduled(give_up)
        return is_open

    def read(self) -> None:
        """Read what has arrived, or go on: its turn has come. Never raises."""
        self._is_queued = False
        turns = self._readers.turns
        reads = 0
        while True:
            # Cancelled, perhaps by what was served.
            if self.task is None:
                return
            if turns.account is not self.account:
                turns.work_for(self.account)
            data = None
            if not self._has_left:
                try:
                    data = os.read(self.descriptor, READ_BYTES)
                except BlockingIOError:
                    self._readers.arm(self.descriptor, _ARMED)
                    return
                except OSError as error:
                    broken = trio.BrokenResourceError(f"reading failed: {error}")
                    broken.__cause__ = error
                    self._wake(outcome.Error(broken))
                    return
            try:
                left = self._take(data)
            except Exception as error:  # noqa: BLE001 - the boundary: it is for the connection's own task
                if not self._wake(outcome.Error(error)):
                    report_defect("a message could not be served, and its connection has ended", error)
                return
            reads += 1
            # Few long messages fit into what is read at once, and a pass takes longer than one of them.
            if (
                data is None
                or len(data) < READ_BYTES
                or left is not Left.NOTHING
                or reads == _MOST_READS
                or turns.is_shared
                or time.perf_counter() >= turns.ends
            ):
                break
        if left is Left.NOTHING or left is Left.MESSAGES:
            # Else it was cancelled by what was served.
            if self.task is not None:
                self._has_left = left is Left.MESSAGES
                if self._has_left:
                    self.queue()
                else:
                    self._readers.arm(self.descriptor, _ARMED)
        else:
            self._wake(outcome.Value(data != b""))

    def is_free(self) -> bool:
        """Whether it would read when something arrives: it does not wait for a turn, and its task sleeps."""
        return self.task is not None and not self._is_queued

    def close(self) -> None:
        """Read no more; once. The descriptor is still open."""
        if self._is_known:
            self._is_known = False
            self._readers.forget(self)
        # Cycles that have lived for long are not looked for (service/collector.py).
        del self._place, self._take

    def queue(self) -> None:
        """Wait for a turn to `read`."""
        self._is_queued = True
        self._readers.turns.queue(self.account, self._place)

    def _wake(self, result: outcome.Outcome[bool]) -> bool:
        """Let the task go on, and return True, unless it was cancelled by what was served."""
        self._has_left = False
        task, self.task = self.task, None
        if task is None:
            return False
        reschedule(task, result)
        return True


class Readers:
    """All readers of one run of trio; made by `readers`.

    Attributes:
        epoll: Watches their descriptors.
        arm: Has the next bytes of one reported that is watched, given with `_ARMED`.
        turns: Who may read now.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.epoll: Final = select.epoll()
        self.arm: Final = self.epoll.modify
        self.turns: Final[Turns] = turns()
        self._by_descriptor: dict[int, Reader] = {}
        self.turns.arrivals.readers = self._by_descriptor

    def open(self, descriptor: int, account: Account, take: Take) -> Reader:
        """Return what reads from a descriptor that does not block, until `Reader.close`."""
        return Reader(self, descriptor, account, take)

    def add(self, reader: Reader) -> None:
        """Watch the descriptor of a reader."""
        self.epoll.register(reader.descriptor, _ARMED)
        self._by_descriptor[reader.descriptor] = reader

    def forget(self, reader: Reader) -> None:
        """Watch the descriptor of a reader no more."""
        del self._by_descriptor[reader.descriptor]
        self.turns.arrivals.expect_none(reader.descriptor)
        self.epoll.unregister(reader.descriptor)

    async def run(self) -> None:
        """Have those read for whom something has arrived, until cancelled."""
        turns = self.turns
        with self.epoll:
            while True:
                await trio.lowlevel.wait_readable(self.epoll.fileno())
                by_descriptor = self._by_descriptor
                # Who waits for a turn, as whoever comes after it of the same process.
                waits: Account | None = None
                for descriptor, _ in self.epoll.poll(0, max(1, len(by_descriptor))):
                    reader = by_descriptor.get(descriptor)
                    # Else it has ended because of what another one has read, or its task does not sleep: it
                    # is armed when that wants more. Or it has read already, and waits for a turn.
                    if reader is None or not reader.is_free():
                        continue
                    # Who waits pays for its own way into the queue; those of one process pay together.
                    account = reader.account
                    if account.parent is waits and waits is not None:
                        if turns.account is not waits:
                            turns.work_for(waits)
                        reader.queue()
                        continue
                    turns.work_for(account)
                    may_begin = turns.may_begin(account, descriptor)
                    if not reader.is_free():
                        continue
                    if may_begin:
                        reader.read()
                    else:
                        waits = account.parent
                        reader.queue()


_READERS: Final = trio.lowlevel.RunVar[Readers]("redstreamd readers")


def readers() -> Readers:
    """Return the readers of the run of trio that this is called in."""
    try:
        return _READERS.get()
    except LookupError:
        made = Readers()
        trio.lowlevel.spawn_system_task(made.run, name="readers")
        _READERS.set(made)
        return made
