"""Calls that one script serves together: what a client asks of one group in a pass of the scheduler.

A script costs Redis more than what it does for one entry, and the daemon more than what is asked. So calls of
a script that can serve several are not queued one by one: those of one place and with equal terms, on behalf
of one account, are joined until the pass ends, or until they are as many as one call may serve. Then they are
one request, and its reply is divided among them.

Calls of one place keep their order; those of different places are queued in the order of their first calls.
What comes later than a call and is no entry to be added is not sent before it: a command of another kind has
what was joined before it queued first. A call that is cancelled before its request is sent leaves it without
a trace; what becomes of a lost or refused request is told to each of its calls, which then goes on alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from trio.lowlevel import RunVar, reschedule

from redstreamd.admission.accounts import Account
from redstreamd.admission.turns import turns
from redstreamd.errors import BusError
from redstreamd.errors.defects import report_defect
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import JoinableCall, ScriptCall
from redstreamd.stream_io import flush_at_end_of_pass

if TYPE_CHECKING:
    from redstreamd.redisio.pipeline import Pipeline

#: Calls that one request serves at most, and what they bring together: no more than one call may bring. With
#: more, the others of a client would wait for longer, and Redis for the first.
MAX_CALLS: Final = 16
MAX_WEIGHT: Final = 100


class JointCalls:
    """The calls that are joined and not queued yet, of all connections."""

    def __init__(self) -> None:
        """Begin with none."""
        # In the order in which they were begun.
        self._open: dict[tuple[Account | None, object], _Joint] = {}
        # What could not be queued, and why. Its calls are told at the end of the pass: nobody is called while
        # somebody submits.
        self._refused: list[tuple[_Joint, Exception]] = []

    def __len__(self) -> int:
        """Return how many requests are still joined."""
        return len(self._open)

    def add(self, pipeline: Pipeline, call: JoinableCall, then: Callable[[Any], None] | None) -> Request:
        """Join a call to those of its kind; see `Pipeline.enqueue` for `then`.

        The reply is that of the call alone, as its `split` makes it.
        """
        account = None if pipeline.turns is None else pipeline.turns.account
        place = account, call.place
        joint = self._open.get(place)
        if joint is not None and not joint.takes(pipeline, call):
            self._queue(place)
            joint = None
        if joint is None:
            if not self._open:
                flush_at_end_of_pass(self._end_of_pass)
            joint = self._open[place] = _Joint(pipeline, call, account)
        request = _Joined(pipeline, then, joint=joint, part=call.part)
        joint.calls[request] = None
        joint.weight += call.weight
        if len(joint.calls) >= MAX_CALLS:
            self._queue(place)
        return request

    def queue_all(self) -> None:
        """Queue what is joined of the account that is served: what follows is not to come before it."""
        account = turns().account
        for place in [place for place in self._open if place[0] is account]:
            self._queue(place)

    def _queue(self, place: tuple[Account | None, object], *, is_last: bool = False) -> None:
        joint = self._open.pop(place)
        try:
            joint.queue(is_last=is_last)
        except Exception as error:  # noqa: BLE001 - as a reply in its place: each goes on with that
            self._refused.append((joint, error))

    def _end_of_pass(self) -> bool:
        for place in list(self._open):
            self._queue(place, is_last=True)
        refused, self._refused = self._refused, []
        for joint, error in refused:
            joint.answer(error)
        return bool(refused)


_JOINT: Final = RunVar[JointCalls]("redstreamd joint calls")


def joint_calls() -> JointCalls:
    """Return those of the run of trio that this is called in."""
    try:
        return _JOINT.get()
    except LookupError:
        made = JointCalls()
        _JOINT.set(made)
        return made


class _Joined(Request, eq=False, gc=False):
    """A call that is joined with others, as its caller sees it.

    Attributes:
        joint: What it is a part of; None once it is answered, or taken back.
        part: What it brings.
    """

    joint: _Joint | None = None
    part: Any = None

    @property
    def sent(self) -> bool:
        """Whether the bytes of its request were handed to the socket."""
        joint = self.joint
        return self.deadline != float("inf") if joint is None else joint.is_sent

    def send_now(self) -> None:
        """Nothing: others may come to be sent with it."""

    def take_back(self) -> bool:
        """Take the call back if it is not sent; return whether it was. Else its reply still comes."""
        if self.sent:
            return False
        joint, self.joint, self.then = self.joint, None, None
        if joint is not None:
            joint.leave(self)
        return True


class _Joint:
    """Calls that become one request."""

    # Invariant: request is None until it is queued, and what is queued has calls. Python's collector does not
    # see requests, so calls are let go of when they are answered.
    __slots__ = ("_first", "_pipeline", "account", "calls", "request", "weight")

    def __init__(self, pipeline: Pipeline, first: JoinableCall, account: Account | None) -> None:
        self.account = account
        self.calls: dict[_Joined, None] = {}
        self.request: Request | None = None
        self.weight = 0
        self._first = first
        self._pipeline = pipeline

    @property
    def is_sent(self) -> bool:
        return self.request is not None and self.request.sent

    def takes(self, pipeline: Pipeline, call: JoinableCall) -> bool:
        """Return whether a call can be one of these."""
        return (
            call.terms == self._first.terms
            and pipeline is self._pipeline
            and self.weight + call.weight <= MAX_WEIGHT
        )

    def leave(self, call: _Joined) -> None:
        """Go on without a call that was taken back."""
        # Not there if its partners are being told that nothing was sent.
        self.calls.pop(call, None)
        request = self.request
        if request is None:
            return
        if not self.calls:
            request.take_back()
            return
        # The others keep their place: what their client sent later is not to come before them.
        try:
            self._pipeline.replace(request, self._script().by_digest, len(self.calls))
        except Exception as error:  # noqa: BLE001 - what was taken back is not to be executed
            request.take_back()
            self.answer(error)

    def _script(self) -> ScriptCall:
        first = self._first
        try:
            return first.join(first.terms, [call.part for call in self.calls])
        except Exception as defect:
            report_defect("calls could not be joined", defect)
            raise

    def queue(self, *, is_last: bool = False) -> None:
        """Queue the request, unless all calls were taken back.

        Args:
            is_last: The pass has ended, and all that is queued is about to be sent.

        Raises: as `Pipeline.enqueue`.
        """
        if not self.calls:
            return
        pipeline = self._pipeline
        if is_last:
            pipeline.end_pass()
        turn = turns()
        served = turn.account
        if served is not self.account:
            # The pass is over, or somebody else's call ended.
            turn.work_for(self.account)
        try:
            tasks = sum(call.then is None for call in self.calls)
            self.request = pipeline.enqueue(
                self._script().by_digest, self.answer, calls=len(self.calls), tasks=tasks
            )
        finally:
            if served is not self.account:
                turn.work_for(served)

    def answer(self, reply: Any) -> None:
        """Give each call its reply, or the error in the place of all."""
        calls, self.calls = self.calls, {}
        deadline = float("inf") if self.request is None else self.request.deadline
        for call, own in zip(calls, self._divide(calls, reply), strict=True):
            call.joint, call.deadline = None, deadline
            then, call.then = call.then, None
            if then is None:
                call.result = own
                if call.task is not None:
                    task, call.task = call.task, None
                    reschedule(task)
                continue
            try:
                then(own)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is no matter of the others
                report_defect("a reply could not be handled", exc)

    def _divide(self, calls: Collection[_Joined], reply: Any) -> Sequence[Any]:
        """Return the reply of each of the calls, or the error that each of them gets."""
        error = reply
        if not isinstance(reply, Exception):
            try:
                replies = self._first.split([call.part for call in calls], reply)
                if len(replies) == len(calls):
                    return replies
                raise ValueError(f"{len(replies)} replies of {len(calls)} joined calls")
            except BusError as unexpected:
                error = unexpected
            except Exception as defect:  # noqa: BLE001 - whatever it is, nobody waits for ever
                report_defect("the reply of joined calls could not be divided", defect)
                error = defect
        return (error,) * len(calls)
