"""Judges what a faulty run left behind against what its writers and workers were told.

A history is kept while the run goes on; the judgement is made afterwards, over what a plain client
reads from the server. It knows nothing of how entries were written or which fault there was.

Prior art: Jepsen's set and queue checkers. Theirs allow an operation of unknown outcome to take
effect at any later time; here every run is over before it is judged, so "at most once" is enough.
"""

from __future__ import annotations

import enum
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import attrs
import trio

from redstreamd.errors import BusError, Code
from tests.support.servers import Server

#: Adds the object as one entry under the key, and returns its entry ID and whether the key was known.
Add = Callable[[dict[str, Any], str | None], Awaitable[tuple[str, bool]]]

#: What a writer with a key waits before it asks again: long enough not to spin while Redis is down.
_ASK_AGAIN_SECONDS = 0.01

#: Codes after which the entry may or may not be there.
_UNKNOWN = {Code.OUTCOME_UNKNOWN, Code.TIMEOUT}


class InvalidRun(AssertionError):  # noqa: N818 - a verdict about the run, not about what it tested
    """Too little happened during the run to say anything about the fault."""


class Told(enum.Enum):
    """What the writer of an entry knows in the end."""

    ACKNOWLEDGED = "acknowledged"
    UNKNOWN = "unknown"
    REFUSED = "refused"


def told_by(code: Code) -> Told:
    """Return what the writer of an entry knows whose call failed with this code."""
    return Told.UNKNOWN if code in _UNKNOWN else Told.REFUSED


@attrs.frozen
class Line:
    """One entry's line in the history.

    Attributes:
        told: What its writer knows.
        entry_id: The ID it was acknowledged with.
        keyed: Whether it was added under an idempotency key, until acknowledged.
        duplicate: Whether the acknowledgement said that an earlier attempt had added it.
        attempts: How often the writer called.
        code: Of the error that ended a writer without a key.
    """

    told: Told
    entry_id: str | None = None
    keyed: bool = False
    duplicate: bool = False
    attempts: int = 1
    code: str = ""


@attrs.define
class Calls:
    """Calls of one writer for one entry, one after the other, that ended in the same way.

    Attributes:
        began: When the first was made, in milliseconds since the epoch, as entry IDs count them.
        outcome: Code and cause of the error, or the entry ID.
        ended: When the last had its answer; None while it waits.
        number: How many they are.
    """

    began: int
    outcome: str = "no answer"
    ended: int | None = None
    number: int = 1

    def __str__(self) -> str:
        times = f"{self.number} times " if self.number > 1 else ""
        return f"{times}{self.began}..{self.ended}: {self.outcome}"


def _now() -> int:
    return time.time_ns() // 1_000_000


def content(number: int) -> dict[str, Any]:
    """Return the entry with this number: recomputed by the judge, so that a changed value is found."""
    return {"n": number, "body": hashlib.sha256(b"%d" % number).hexdigest()}


class History:
    """What writers were told, and what workers finished.

    Attributes:
        lines: Number of an entry -> its line.
        calls: Number of an entry -> what its writer called, as far as `add` and `add_with_key` did.
        faults: What was done to the servers: when, in milliseconds since the epoch, and what.
        finished: Entry ID -> how often a worker was told that its work on it is done.
    """

    def __init__(self) -> None:
        self.lines: dict[int, Line] = {}
        self.calls: dict[int, list[Calls]] = {}
        self.faults: list[tuple[int, str]] = []
        self.finished: Counter[str] = Counter()

    def count(self, told: Told) -> int:
        """Return how many entries have this outcome."""
        return sum(line.told is told for line in self.lines.values())

    async def add(self, add: Add, number: int) -> Line:
        """Add the entry `number` once, without a key, and take down what the answer was."""
        try:
            entry_id, _ = await self._call(add, number, None)
            line = Line(Told.ACKNOWLEDGED, entry_id)
        except BusError as error:
            line = Line(told_by(error.code), code=error.code.value)
        self.lines[number] = line
        return line

    async def add_with_key(self, add: Add, number: int) -> Line:
        """Add the entry `number` under a key of its own, again and again until it is acknowledged."""
        attempts = 0
        self.lines[number] = Line(Told.UNKNOWN, keyed=True)
        while True:
            attempts += 1
            try:
                entry_id, duplicate = await self._call(add, number, f"key {number}")
            except BusError:
                await trio.sleep(_ASK_AGAIN_SECONDS)
            else:
                line = Line(Told.ACKNOWLEDGED, entry_id, True, duplicate, attempts)
                self.lines[number] = line
                return line

    async def _call(self, add: Add, number: int, key: str | None) -> tuple[str, bool]:
        calls = self.calls.setdefault(number, [])
        call = Calls(_now())
        calls.append(call)
        try:
            entry_id, duplicate = await add(content(number), key)
            call.outcome = f"{entry_id}, known" if duplicate else entry_id
        except BusError as error:
            call.outcome = f"{error.code}: {error.cause}"
            raise
        finally:
            call.ended = _now()
            if len(calls) > 1 and calls[-2].outcome == call.outcome:
                calls.pop()
                calls[-1].ended = call.ended
                calls[-1].number += 1
        return entry_id, duplicate

    def fault(self, what: str) -> None:
        """Take down that something is done to a server now."""
        self.faults.append((_now(), what))

    def told(self, number: int, *entry_ids: str) -> str:
        """Return everything that is known of one entry's writer, with the faults of that time."""
        calls = self.calls.get(number, [])
        times = [int(each.partition("-")[0]) for each in entry_ids]
        times += [each for call in calls for each in (call.began, call.ended) if each is not None]
        # An entry that comes back does so when its server starts, and with the ID that it had.
        near = [
            f"{at}: {what}"
            for at, what in self.faults
            if times and min(times) - 1_000 <= at <= max(times) + 5_000
        ]
        return f"({self.lines.get(number)}; calls: {'; '.join(map(str, calls))}; faults: {'; '.join(near)})"

    def judge(self, entries: Iterable[tuple[str, Mapping[str, str]]], *, acknowledged: int) -> None:
        """Compare with what is in the stream.

        Args:
            entries: Entry IDs and fields, in the stream's order.
            acknowledged: A run with fewer acknowledged entries is invalid.

        Raises:
            InvalidRun: Too little traffic.
            AssertionError: Something acknowledged is missing or changed; something is there twice, or
                was refused and is there; something was never written.
        """
        if self.count(Told.ACKNOWLEDGED) < acknowledged:
            raise InvalidRun(f"only {self.count(Told.ACKNOWLEDGED)} acknowledged, {acknowledged} demanded")
        problems = self.problems(entries)
        assert not problems, f"{len(problems)} problems: " + "\n".join(problems[:20])

    def problems(self, entries: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
        """Return what is wrong with the entries of the stream, given in its order."""
        found: dict[int, str] = {}
        problems: list[str] = []
        for entry_id, fields in entries:
            number = int(fields["n"])
            if number not in self.lines:
                problems.append(f"{number} was never written")
            if number in found:
                ids = (found[number], entry_id)
                problems.append(f"{number} is there twice: {' and '.join(ids)} {self.told(number, *ids)}")
            if fields["body"] != content(number)["body"]:
                problems.append(f"{number} has changed {self.told(number, entry_id)}")
            found[number] = entry_id
        for number, line in self.lines.items():
            if line.told is Told.ACKNOWLEDGED and found.get(number) != line.entry_id:
                told = self.told(number, *filter(None, (line.entry_id, found.get(number))))
                problems.append(f"{number} was acknowledged as {line.entry_id}: {found.get(number)} {told}")
            if line.told is Told.REFUSED and number in found:
                told = self.told(number, found[number])
                problems.append(f"{number} was refused ({line.code}) and is there {told}")
        return problems

    def judge_work(self, entry_ids: Iterable[str], *, pending: int, finished: int, once: bool) -> None:
        """Compare with what there was to do.

        Args:
            entry_ids: All entries of the stream.
            pending: How many entries the group's pending list holds.
            finished: A run in which fewer were finished is invalid.
            once: Whether no entry may have been finished by two attempts.

        Raises:
            InvalidRun: Too little work.
            AssertionError: Something is stranded, or was finished twice.
        """
        if len(self.finished) < finished:
            raise InvalidRun(f"only {len(self.finished)} finished, {finished} demanded")
        problems = self.work_problems(entry_ids, pending=pending, once=once)
        assert not problems, f"{len(problems)} problems: {problems[:20]}"

    def work_problems(self, entry_ids: Iterable[str], *, pending: int, once: bool) -> list[str]:
        """Return what is wrong with the work; the arguments are those of `judge_work`."""
        problems = [f"{each} was never finished" for each in entry_ids if each not in self.finished]
        if pending:
            problems.append(f"{pending} are still pending")
        if once:
            problems += [
                f"{each} was finished {times} times" for each, times in self.finished.items() if times > 1
            ]
        return problems


def entries_of(server: Server, stream: str) -> list[tuple[str, dict[str, str]]]:
    """Read a whole stream as any client would."""
    return entries_in(server.command("XRANGE", stream, "-", "+"))


def entries_in(reply: Any) -> list[tuple[str, dict[str, str]]]:
    """Read the reply of an XRANGE."""
    return [
        (
            entry_id.decode(),
            {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)},
        )
        for entry_id, flat in reply
    ]
