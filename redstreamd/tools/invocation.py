"""One call of a tool on its way, from its checked arguments to its end.

The steps are: `Toolbox.begin` makes an invocation (structure, needs, names, authorise, rate), then `admit`,
`run` and `end`; `carry_out` takes these three in order, in a task. The direct path has no task for a call
that is one round trip: it decodes the arguments itself, goes on with `Toolbox.check` or what that has found
before, and in the place of `run` it takes the tool's plan. What it cannot finish itself goes on with
`carry_out`, or as a wait.

How a call can end:

- the handler returns: a result;
- `BusError`: a result with ``isError`` and the error's four parts, because only a result reaches the model,
  which can then correct itself;
- any other `Exception`: INTERNAL, without its text; the traceback is logged;
- `trio.Cancelled`: propagated, also out of the exception group of a handler's nursery; there is no result,
  and who runs the call decides what the client is told.

Each way leads to `end`, which reports the call once. A call that `Toolbox.begin` or `check` refuses is
reported there.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
import trio

from redstreamd.admission.accounts import Account
from redstreamd.errors import BusError, Code
from redstreamd.errors.defects import report_defect
from redstreamd.errors.remedies import setting
from redstreamd.policy import Need, Permission, Policy, Principal, StreamFilter
from redstreamd.streams.lease_tokens import Lease
from redstreamd.tools.argument_text import as_arguments
from redstreamd.tools.definition import Progress, Tool, no_progress
from redstreamd.tools.results import Result, failure, success

BusT = TypeVar("BusT")

#: Outcomes of a call besides the codes of errors. Cancelled is what was to end before its answer, but for its
#: time limit; it may have had its effect.
OK: Final = "ok"
CANCELLED: Final = "cancelled"


class CallEnded(msgspec.Struct, frozen=True, gc=False):
    """A call ended. The event for audit and access records, and metrics.

    Attributes:
        principal: On whose behalf it was made.
        tool: The tool's name.
        streams: The streams that it needed, once each; empty if it was refused before they were known.
        seconds: From `Invocation.began` until the call ended; 0 if its tool was not found.
        outcome: `OK`, `CANCELLED`, or the code of the error that the call ended with.
        answer_bytes: The size of the result's content, which a message holds as a value and as text; 0
            without a result.
        group: The consumer group that its arguments or its lease name; None if there is none.
        action: What an audited call does, see `Effects.action_of`; None for all others. Both are None if
            the toolbox refused the call.
        account: That of the connection it came through, with the connection's ID and its peer; None if it
            came through none.
        manages: Whether its tool writes with the permission to manage.
    """

    principal: Principal
    tool: str
    streams: tuple[str, ...]
    seconds: float
    outcome: str
    answer_bytes: int
    group: str | None = None
    action: str | None = None
    account: Account | None = None
    manages: bool = False


class Untold(msgspec.Struct, frozen=True):
    """The calls that ended in a pass of trio's scheduler, and that their owner tells at its end.

    Attributes:
        counted: Of those that ended well and that nobody records, how long each took and the size of its
            answer, in the same order, by the name of the tool. While a tool is there, its calls that ended
            so are put there, and nobody else is told of them.
        calls: The others. While there are some, one that ended well and is not audited is appended.
    """

    counted: dict[str, tuple[list[float], list[int]]] = msgspec.field(default_factory=dict)
    calls: list[CallEnded] = msgspec.field(default_factory=list)


OnEnded = Callable[[CallEnded], None]
"""Is told of calls that ended, see `Rules`; it must not raise, nor take long: it is a part of a call."""


class Deferral:
    """The place in a queue of a call that may not run yet; made by what admits calls.

    The call takes `on_admitted` or waits in `admitted`; who admits it calls `admit`. Whichever of `admit` and
    `withdraw` comes first counts.

    Attributes:
        waiting: The call still waits: it was neither admitted nor withdrawn.
    """

    # Invariant: once waiting is False it stays so.
    __slots__ = ("_admitted", "_resume", "waiting")

    def __init__(self) -> None:
        """Begin not admitted."""
        self.waiting = True
        self._admitted = False
        self._resume: Callable[[], None] | None = None

    def admit(self) -> None:
        """Let the call run. Nothing happens if it was withdrawn or admitted before."""
        if self.waiting:
            self.waiting = False
            self._admitted = True
            if self._resume is not None:
                self._resume()

    def withdraw(self) -> None:
        """Give up the place, because the call was cancelled."""
        self.waiting = False
        self._resume = None

    def on_admitted(self, resume: Callable[[], None]) -> None:
        """Call ``resume`` once the call is admitted; at once if it was. For one caller."""
        self._resume = resume
        if self._admitted:
            resume()

    async def admitted(self) -> None:
        """Return once the call is admitted. If cancelled, the place is given up."""
        turn = trio.Event()
        self.on_admitted(turn.set)
        try:
            await turn.wait()
        except trio.Cancelled:
            self.withdraw()
            raise


Admit = Callable[["Invocation[Any]"], "Deferral | None"]
"""Returns None for a call that may run at once, else the place of the call in a queue."""


CheckRate = Callable[[str, Principal, float], None]
"""``(tool, principal, now)``: counts a call, or raises `BusError` if it comes too early."""


class Rules(msgspec.Struct, Generic[BusT], frozen=True):
    """What every call of a toolbox is subject to.

    Attributes:
        bus: The domain, for handlers.
        policy: Says what a principal may do to a stream.
        admit: Says whether a call may run now; None: every call may. So it is in the daemon: who is next is
            decided before a call is read (`admission/turns.py`), and a rate by `check_rate`.
        on_ended: Is told of calls that ended, but for what is appended to `untold`; None: nobody is.
        untold: Calls that ended, and that its owner (`EndedCalls`) tells at the end of the pass. Where a call
            is put there, `on_ended` is not called.
        timeout_seconds: The time limit of each `run`, in addition to the time that the call asked to wait. A
            round trip without a task has the time limit of commands instead.
        default_wait_seconds: Added for a call that may wait and does not say for how long.
        check_rate: Refuses a call that comes too early; None: none does.
        hidden: The tools that do not exist for a principal, of those that are offered; None: all do.
    """

    bus: BusT
    policy: Policy
    admit: Admit | None
    on_ended: OnEnded | None
    timeout_seconds: float
    default_wait_seconds: float
    check_rate: CheckRate | None = None
    hidden: Mapping[Principal, frozenset[str]] | None = None
    untold: Untold = msgspec.field(default_factory=Untold)


class Invocation(msgspec.Struct, Generic[BusT], eq=False):
    """One call of a tool; it runs if `Toolbox.check` finds nothing wrong, or found nothing in one like it.

    It is also what the tool gets as its `Call`.

    Attributes:
        rules: What it is subject to.
        tool: The tool.
        arguments: Its arguments, with the attributes of ``tool.arguments``.
        principal: On whose behalf it is made.
        needs: The streams that it needs, as far as its arguments and its lease name them; set by the check.
        lease: The lease among the arguments, if the tool takes one; likewise.
        began: When, by `time.perf_counter`; its arguments may have been decoded before.
        bus: The domain.
        account: That of the connection it came through; None if it came through none.
        progress: Sends progress notifications.
        has_ended: Whether `end` was called.
        group_and_action: What `CallEnded` is to have of them; None: what the arguments say.
    """

    rules: Rules[BusT]
    tool: Tool[Any]
    arguments: Any
    principal: Principal
    needs: Sequence[Need]
    lease: Lease | None
    began: float
    bus: BusT
    account: Account | None = None
    progress: Progress = no_progress
    has_ended: bool = False
    group_and_action: tuple[str | None, str | None] | None = None

    @property
    def held_lease(self) -> Lease:
        """The lease, for a tool that takes one."""
        if self.lease is None:
            raise TypeError("this tool takes no lease")
        return self.lease

    @property
    def limit_seconds(self) -> float:
        """How many seconds `run` may take, including the time that the call asked to wait."""
        asked: float | None = getattr(self.arguments, "timeout_seconds", 0.0)
        return self.rules.timeout_seconds + (self.rules.default_wait_seconds if asked is None else asked)

    def authorise(self, stream: str, permission: Permission) -> None:
        """Ask for a permission on a stream that was learned of while the call runs.

        Raises:
            BusError: PERMISSION_DENIED.
        """
        self.rules.policy.authorise(self.principal, stream, permission)

    def may(self, stream: str, permission: Permission) -> bool:
        """Ask for a permission, for an answer that depends on it."""
        return self.rules.policy.may(self.principal, stream, permission)

    def quarantines(self, stream: str) -> bool:
        """Return whether what the caller publishes to a stream waits in quarantine for a release."""
        policy = self.rules.policy
        # `quarantines` looks at it, too; most calls are spared that function.
        return policy.submits and policy.quarantines(self.principal, stream)

    def may_somewhere(self, permission: Permission) -> bool:
        """Ask whether the caller has a permission on any stream, so that tools that need it are offered."""
        return permission in self.rules.policy.somewhere(self.principal)

    @property
    def readable(self) -> StreamFilter | None:
        """What lets pass the streams that the caller may read; None for all."""
        return self.rules.policy.readable(self.principal)

    def error_to_answer(self, error: BaseException) -> BusError:
        """Return the error to answer with, see `as_bus_error`; with the hints that the caller may have."""
        shown = as_bus_error(self.tool, error)
        if self.rules.hidden is not None:
            shown = shown.without(self.rules.hidden[self.principal])
        return shown.with_hint(self.rules.policy.known(self.principal)) if shown.similar else shown

    def admit(self) -> Deferral | None:
        """Ask whether the call may run now: None if it may, else its place in a queue."""
        return None if self.rules.admit is None else self.rules.admit(self)

    async def run(self, progress: Progress, go_on: Callable[[], Awaitable[object]] | None = None) -> object:
        """Run the tool's handler within the time limit, and return what it returns.

        Args:
            progress: Sends progress notifications.
            go_on: Runs in the place of the handler: a part of the call, the beginning or what is left.

        Raises:
            BusError: What the handler raised; TIMEOUT, or OUTCOME_UNKNOWN for a tool that writes, at the time
                limit.

        If cancelled, the handler is cancelled, and whether it had an effect is not known.
        """
        seconds = self.limit_seconds
        with trio.move_on_after(seconds):
            # Not before: plans are made where nothing sends progress.
            self.progress = progress
            if go_on is not None:
                return await go_on()
            arguments = self.arguments
            if not isinstance(arguments, self.tool.arguments):
                arguments = as_arguments(self.tool.arguments, arguments)
            return await self.tool.handler(self, arguments)
        raise _timed_out(self.tool, seconds)

    def end(self, outcome: str, answer_bytes: int = 0) -> None:
        """Report that the call ended; see `CallEnded` for the arguments. For one call.

        Raises:
            RuntimeError: The call ended before.
        """
        if self.has_ended:
            raise RuntimeError(f"a call of {self.tool.name} ended twice")
        self.has_ended = True
        # It may be a bound method of this very object, which would be a cycle.
        if self.progress is not no_progress:
            self.progress = no_progress
        rules = self.rules
        on_ended = rules.on_ended
        if on_ended is not None:
            tool, untold = self.tool, rules.untold
            # Compiled with the tool; to ask for them is a function.
            effects = tool.known_effects[0] if tool.known_effects else tool.effects
            arguments = self.arguments
            group = action = None
            if self.group_and_action is not None:
                group, action = self.group_and_action
            elif self.lease is not None or (
                type(arguments) not in effects.usual_classes and effects.given(arguments) != effects.usual
            ):
                group, action = effects.of_call(arguments, self.lease)
            seconds = time.perf_counter() - self.began
            is_usual = action is None and outcome == OK
            if is_usual and (counted := untold.counted.get(tool.name)) is not None:
                counted[0].append(seconds)
                counted[1].append(answer_bytes)
                return
            needs = self.needs
            ended = CallEnded(
                self.principal,
                tool.name,
                # Most calls need one: they are spared a function.
                (needs[0].stream,) if len(needs) == 1 else streams_of(needs),
                seconds,
                outcome,
                answer_bytes,
                group,
                action,
                self.account,
                effects.always,
            )
            if is_usual and untold.calls:
                untold.calls.append(ended)
            else:
                on_ended(ended)

    def drop_arguments(self) -> None:
        """Let go of the arguments, which may be large, while the call waits."""
        effects, arguments = self.tool.effects, self.arguments
        if self.lease is None and effects.given(arguments) == effects.usual:
            self.group_and_action = (None, None)
        else:
            self.group_and_action = effects.of_call(arguments, self.lease)
        self.arguments = None

    async def carry_out(
        self,
        progress: Progress,
        *,
        go_on: Callable[[], Awaitable[object]] | None = None,
        admitted: bool = False,
    ) -> Result:
        """Admit, run and end the call, and return its result, also if it failed.

        Args:
            progress: Sends progress notifications.
            go_on: See `run`.
            admitted: Whether the call was admitted before.

        If cancelled, see `run`.
        """
        outcome = CANCELLED
        size = 0
        try:
            if not admitted and (deferral := self.admit()) is not None:
                await deferral.admitted()
            result = success(await self.run(progress, go_on))
            outcome, size = OK, result.size
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the connection
            shown = self.error_to_answer(error)
            result = failure(shown)
            outcome, size = str(shown.code), result.size
            # Its traceback has this frame, so they would be a cycle.
            del shown
        except BaseExceptionGroup as group:
            # A cancelled nursery in which something else failed, too: nobody gets the answer, but a defect
            # is logged.
            passing, rest = group.split(lambda error: not isinstance(error, Exception | BaseExceptionGroup))
            if rest is not None:
                as_bus_error(self.tool, rest)
            try:
                raise passing or group from None
            finally:
                # The traceback has this frame, so they would be a cycle.
                del passing, rest
        finally:
            self.end(outcome, size)
        return result


def streams_of(needs: Sequence[Need]) -> tuple[str, ...]:
    """Return the streams that a call needs, once each."""
    return tuple(dict.fromkeys(need.stream for need in needs))


def _timed_out(tool: Tool[Any], seconds: float) -> BusError:
    """Return the error of a call that was cancelled at its time limit."""
    return BusError(
        Code.TIMEOUT if tool.hints.read_only.value else Code.OUTCOME_UNKNOWN,
        f"{tool.name} was cancelled after {seconds:g} seconds.",
        cause=f"The time limit of a call is {setting('tools.call_timeout_seconds')}; Redis is slow, or the "
        "call had much to do.",
        next_step="Call again; ask for less at once."
        if tool.hints.read_only.value
        else "Check whether it had its effect before you repeat it"
        + (", or repeat it with its idempotency_key." if hasattr(tool.arguments, "idempotency_key") else "."),
    )


def as_bus_error(tool: Tool[Any], error: BaseException) -> BusError:
    """Return the error to report; log it unless it is a `BusError` or a group of nothing else.

    Of such a group the first is reported, because a result holds one code.
    """
    errors = list(_flattened(error))
    expected = [each for each in errors if isinstance(each, BusError)]
    if len(expected) == len(errors):
        return expected[0]
    report_defect(f"tool {tool.name} failed unexpectedly", error)
    return BusError(
        Code.INTERNAL,
        f"{tool.name} failed unexpectedly.",
        cause="A defect in redstreamd; its log has the traceback. The call may have had its effect.",
        next_step="Read before you repeat a call that writes; report the log's traceback.",
    )


def _flattened(error: BaseException) -> Iterable[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _flattened(each)
    else:
        yield error
