"""One call on its way: what is checked before it runs, how it may wait, and that it ends once."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import pytest
import trio
import trio.testing

from redstreamd.errors import BusError, Code
from redstreamd.errors.defects import Defect
from redstreamd.policy import Need, Permission, Policy, Principal
from redstreamd.settings import StreamsSettings
from redstreamd.streams.bus import Bus
from redstreamd.streams.name_rules import NameRules
from redstreamd.streams.names import Kind, companion_key
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import reading
from redstreamd.tools.argument_types import NameOf, names_in
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Call, Profile, Registry, needs_on, tool
from redstreamd.tools.invocation import CANCELLED, OK, CallEnded, Deferral, Invocation, Untold, _timed_out
from redstreamd.tools.toolbox import Toolbox, toolbox_over
from tests.support.buses import ON_REDIS
from tests.support.calls import ME, no_progress

OTHER = Principal("other", "unix")


@attrs.frozen
class Arguments:
    stream: shared_arguments.Stream
    group: shared_arguments.Group | None = None
    consumer: Annotated[str, NameOf.CONSUMER] | None = None
    fails: str = ""


@tool(
    title="Act",
    profile=Profile.WORKER,
    permission=Permission.PUBLISH,
    needs=needs_on(Permission.PUBLISH, "stream", creates=True),
    hints=reading("It does nothing."),
)
async def act(call: Call[None], args: Arguments) -> dict[str, Any]:
    """Do what the arguments say."""
    if args.fails == "with a code":
        raise BusError(Code.STREAM_NOT_FOUND, "none", cause="none", next_step="none")
    if args.fails == "with a defect":
        raise RuntimeError("a defect")
    if args.fails == "to end":
        await trio.sleep_forever()
    if args.fails == "to be permitted":
        call.authorise("elsewhere", Permission.MANAGE)
    return {"done": args.stream}


class Recorder(Policy):
    """Answers the questions of a toolbox, and records what it was asked and told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, Permission]] = []
        self.denied: set[tuple[str, Permission]] = set()
        self.ended: list[CallEnded] = []
        self.deferrals: list[Deferral] = []

    def authorise(self, principal: Principal, stream: str, permission: Permission) -> None:
        self.asked.append((principal.name, stream, permission))
        if (stream, permission) in self.denied:
            raise BusError(Code.PERMISSION_DENIED, "no", cause="no", next_step="no")

    def defer(self, invocation: Invocation[Any]) -> Deferral:
        self.deferrals.append(Deferral())
        return self.deferrals[-1]

    def outcome(self) -> str:
        """The outcome of the one call that ended since the last time."""
        (event,) = self.ended
        self.ended.clear()
        return event.outcome


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def toolbox_for(recorder: Recorder, **options: Any) -> Toolbox[None]:
    return Toolbox(
        Registry([act]),
        [Profile.WORKER],
        None,
        policy=recorder,
        on_ended=recorder.ended.append,
        **options,
    )


# --- What is checked before a call runs --------------------------------------------------------


def test_a_beginning_has_the_arguments_and_what_the_call_needs(recorder: Recorder) -> None:
    invocation = toolbox_for(recorder).begin(act, {"stream": "a:b:c"}, ME)
    assert invocation.arguments == Arguments("a:b:c")
    assert list(invocation.needs) == [Need("a:b:c", Permission.PUBLISH, creates=True)]
    assert recorder.asked == [("me", "a:b:c", Permission.PUBLISH)]
    assert recorder.ended == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"stream": ""}, Code.INVALID_ARGUMENT),
        ({"stream": "\x07"}, Code.INVALID_STREAM),
        ({"stream": companion_key("s", Kind.DUE, "g")}, Code.INVALID_STREAM),
        ({"stream": "s" * 513}, Code.INVALID_STREAM),
        ({"stream": "s", "group": "\x07"}, Code.INVALID_GROUP),
        ({"stream": "s", "consumer": ""}, Code.INVALID_ARGUMENT),
        ({"stream": "denied"}, Code.PERMISSION_DENIED),
    ],
)
def test_a_call_that_is_refused_before_it_runs_has_ended(
    recorder: Recorder, arguments: dict[str, Any], code: Code
) -> None:
    recorder.denied = {("denied", Permission.PUBLISH)}
    toolbox = toolbox_for(recorder)
    for _ in range(2):  # What was refused is not remembered as checked.
        with pytest.raises(BusError) as caught:
            toolbox.begin(act, arguments, ME)
        assert caught.value.code == code
        assert recorder.outcome() == code


def test_a_verdict_is_asked_for_once_for_each_principal_until_it_is_forgotten(recorder: Recorder) -> None:
    toolbox = toolbox_for(recorder)
    for principal in (ME, ME, OTHER, OTHER, Principal("me", "unix")):
        toolbox.begin(act, {"stream": "a:b:c"}, principal)
    assert [who for who, *_ in recorder.asked] == ["me", "other"]
    recorder.denied = {("a:b:c", Permission.PUBLISH)}
    toolbox.forget_verdicts()
    with pytest.raises(BusError, match="PERMISSION_DENIED"):
        toolbox.begin(act, {"stream": "a:b:c"}, ME)


async def test_a_stream_that_a_handler_learns_of_is_a_question_of_its_own(recorder: Recorder) -> None:
    toolbox = toolbox_for(recorder)
    arguments = {"stream": "s", "fails": "to be permitted"}
    assert not (await toolbox.call(act, arguments, ME, no_progress)).is_error
    assert recorder.asked[-1] == ("me", "elsewhere", Permission.MANAGE)
    recorder.denied = {("elsewhere", Permission.MANAGE)}
    assert (await toolbox.call(act, arguments, ME, no_progress)).as_values()["structuredContent"]["code"] == (
        "PERMISSION_DENIED"
    )


@pytest.mark.parametrize("naming", ["warn", "error", "off"])
def test_names_are_known_to_be_plain_once_they_were_checked_and_not_more_than_a_number(naming: Any) -> None:
    rules = NameRules(StreamsSettings(naming=naming))
    assert "a:b:c" not in rules.creatable
    for name in ("a:b:c", "Odd", companion_key("s", Kind.DEAD, "g")):
        rules.check_stream(name)
    assert "a:b:c" in rules.creatable
    assert ("Odd" in rules.creatable) == (naming == "off")
    # That it may be read does not say that it may be written.
    with pytest.raises(BusError, match="INVALID_STREAM"):
        rules.check_stream(companion_key("s", Kind.DEAD, "g"), creates=True)
    for number in range(10_000):
        rules.check_stream(f"a:b:{number}", creates=True)
        rules.check_group(f"g{number}")
    assert "a:b:c" not in rules.creatable
    assert "a:b:9999" in rules.creatable
    assert max(len(rules.creatable), len(rules._valid)) <= 5_000


def test_every_argument_that_can_name_something_says_so() -> None:
    """A tool that takes a name as any text would have it checked by nobody."""
    #: A consumer may have any name that another program gave it, to be removed.
    unchecked = {("group_manage", "consumer")}
    words = {"stream", "streams", "reply_to", "group", "consumer", "to_consumer", "lease"}
    for each in REGISTRY:
        named = names_in(each.arguments)
        assert set(named) == {
            field.name
            for field in attrs.fields(each.arguments)
            if field.name in words and (each.name, field.name) not in unchecked
        }


# --- The end of a call -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fails", "outcome"),
    [("", OK), ("with a code", "STREAM_NOT_FOUND"), ("with a defect", "INTERNAL"), ("to end", "TIMEOUT")],
)
async def test_each_end_is_told_once_with_its_outcome_and_size(
    recorder: Recorder, fails: str, outcome: str, defects: list[Defect]
) -> None:
    toolbox = toolbox_for(recorder, timeout_seconds=0.05 if fails == "to end" else 60)
    result = await toolbox.call(act, {"stream": "s", "fails": fails}, ME, no_progress)
    (event,) = recorder.ended
    assert (event.principal, event.tool, event.streams, event.outcome) == (ME, "act", ("s",), outcome)
    assert result.body is not None
    assert event.answer_bytes == len(result.body)
    assert 0 < event.seconds < 60
    assert result.is_error == (outcome != OK)
    assert [each.what for each in defects] == ["tool act failed unexpectedly"] * (outcome == "INTERNAL")


async def test_a_cancelled_call_ends_as_cancelled(recorder: Recorder) -> None:
    toolbox = toolbox_for(recorder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(toolbox.call, act, {"stream": "s", "fails": "to end"}, ME, no_progress)
        await trio.testing.wait_all_tasks_blocked()
        assert recorder.ended == []
        nursery.cancel_scope.cancel()
    assert recorder.outcome() == CANCELLED


def test_a_second_end_is_a_defect(recorder: Recorder) -> None:
    invocation = toolbox_for(recorder).begin(act, {"stream": "s"}, ME)
    invocation.end(OK, 2)
    with pytest.raises(RuntimeError, match="act ended twice"):
        invocation.end(CANCELLED)
    assert recorder.outcome() == OK


async def test_without_a_hook_a_call_ends_all_the_same() -> None:
    toolbox = Toolbox(Registry([act]), [Profile.WORKER], None)
    assert not (await toolbox.call(act, {"stream": "s"}, ME, no_progress)).is_error


async def test_the_hook_is_told_of_each_end_once_and_in_order() -> None:
    told: list[CallEnded] = []
    toolbox = Toolbox(Registry([act]), [Profile.WORKER], None, on_ended=told.append)
    await toolbox.call(act, {"stream": "s"}, ME, no_progress)
    with pytest.raises(BusError):
        toolbox.begin(act, {}, ME)
    assert [(each.tool, each.outcome) for each in told] == [("act", OK), ("act", Code.INVALID_ARGUMENT)]


@pytest.mark.parametrize("is_audited", [False, True])
async def test_a_call_that_ends_well_is_told_with_those_before_it_unless_it_is_audited(
    is_audited: bool,
) -> None:
    told: list[CallEnded] = []
    untold = Untold()
    toolbox = Toolbox(Registry([act]), [Profile.WORKER], None, on_ended=told.append, untold=untold)

    def end(outcome: str) -> None:
        invocation = toolbox.begin(act, {"stream": "s"}, ME)
        invocation.group_and_action = None, "act" if is_audited else None
        invocation.end(outcome)

    # The first says that there is something to tell at the end of the pass.
    end(OK)
    assert (len(told), untold) == (1, Untold())
    untold.calls.append(told[0])
    end(OK)
    assert (len(told), len(untold.calls)) == ((2, 1) if is_audited else (1, 2))
    end(CANCELLED)
    assert told.pop().outcome == CANCELLED
    # Where it is enough to count them.
    before = len(told), len(untold.calls)
    untold.counted["act"] = seconds, sizes = [0.5], [7]
    end(OK)
    assert (len(seconds), len(sizes)) == ((1, 1) if is_audited else (2, 2))
    assert (len(told), len(untold.calls)) == (before[0] + is_audited, before[1])
    end(CANCELLED)
    assert told[-1].outcome == CANCELLED


# --- Calls that have to wait -------------------------------------------------------------------


async def test_a_deferred_call_runs_when_it_is_admitted(recorder: Recorder) -> None:
    toolbox = toolbox_for(recorder, admit=recorder.defer)
    done: list[Any] = []

    async def calling() -> None:
        done.append(await toolbox.call(act, {"stream": "s"}, ME, no_progress))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(calling)
        await trio.testing.wait_all_tasks_blocked()
        assert (done, recorder.ended) == ([], [])
        recorder.deferrals[0].admit()
        recorder.deferrals[0].admit()
    assert len(done) == 1
    assert recorder.outcome() == OK


async def test_a_deferred_call_that_is_cancelled_gives_up_its_place_and_never_runs(
    recorder: Recorder,
) -> None:
    toolbox = toolbox_for(recorder, admit=recorder.defer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(toolbox.call, act, {"stream": "s", "fails": "with a defect"}, ME, no_progress)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    (deferral,) = recorder.deferrals
    assert not deferral.waiting
    deferral.admit()
    assert recorder.outcome() == CANCELLED


@pytest.mark.parametrize("first", [True, False])
def test_a_caller_without_a_task_is_called_back(recorder: Recorder, first: bool) -> None:
    invocation = toolbox_for(recorder, admit=recorder.defer).begin(act, {"stream": "s"}, ME)
    deferral = invocation.admit()
    assert deferral is not None
    resumed: list[str] = []
    if first:
        deferral.admit()
    deferral.on_admitted(lambda: resumed.append("now"))
    deferral.admit()
    assert resumed == ["now"]


@ON_REDIS
async def test_calls_of_the_domain_can_be_deferred(bus: Bus, recorder: Recorder) -> None:
    def at_once(invocation: Invocation[Any]) -> Deferral:
        deferral = recorder.defer(invocation)
        deferral.admit()
        return deferral

    profiles = [Profile.OPERATOR, Profile.RED_STREAM]
    toolbox = toolbox_over(bus, REGISTRY, profiles, admit=at_once, on_ended=recorder.ended.append)
    added = await toolbox.call(
        toolbox.find("stream_add", ME), {"stream": "s", "entries": [{"n": 1}]}, ME, no_progress
    )
    assert not added.is_error
    taken = await toolbox.call(
        toolbox.find("work_take", ME), {"stream": "s", "group": "g", "consumer": "c"}, ME, no_progress
    )
    lease = taken.as_values()["structuredContent"]["lease"]
    done = await toolbox.call(toolbox.find("work_done", ME), {"lease": lease}, ME, no_progress)
    assert done.as_values()["structuredContent"]["already_done"] == []
    assert len(recorder.deferrals) == 3
    assert [(event.tool, event.streams) for event in recorder.ended] == [
        ("stream_add", ("s",)),
        ("work_take", ("s",)),
        ("work_done", ("s",)),
    ]


def test_who_may_repeat_a_call_with_a_key_is_told_to() -> None:
    writing = [each for each in REGISTRY if not each.hints.read_only.value]
    told = {each.name for each in writing if "idempotency_key" in _timed_out(each, 1).next_step}
    assert told == {each.name for each in writing if "idempotency_key" in attrs.fields_dict(each.arguments)}
    assert {"stream_add", "work_take"} <= told
    assert "work_done" not in told
