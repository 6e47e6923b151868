"""What the present version writes works with the release before it after a rollback, and forward again.

On one server and one state directory three daemons run in turn: the present one, the old one, the present one
again. Each case is a generator that yields where the daemon is exchanged. All cases go through each exchange
together, since daemons take long to start; the tests then say how each of them went.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import redstreamd
from redstreamd.errors import Code
from tests.compat.accounting import GROUP, PATIENCE, Client, answer_of, milliseconds_of, taken
from tests.compat.compare import differences
from tests.compat.make_fixture import SHAPES, TOO_MANY_FIELDS
from tests.compat.old_release import RELEASES, Package, old_package
from tests.support.counts import LONG
from tests.support.daemon import home
from tests.support.fair_clock import running_clock
from tests.support.measured import BoundError
from tests.support.server_clock import next_millisecond
from tests.support.servers import Server

#: Runs until it yields for the first time with the present version, until the second with the old one.
Case = Callable[[Client], Iterator[None]]

#: In the order in which they take their turns.
CASES: list[Case] = []

HOUR = 3600
#: Of such streams two entries each stay put off for longer than the tests take.
LATER = "rollback:later"


def case(function: Case) -> Case:
    """Register a case."""
    CASES.append(function)
    return function


@case
def entries_of_every_shape_are_read_alike(client: Client) -> Iterator[None]:
    stream = "rollback:entries:shapes"

    def add() -> list[str]:
        ids = []
        for shape in SHAPES.values():
            ids += client("stream_add", stream=stream, entries=[shape])["ids"]
        stamps = {"correlation_id": "corr \u00e4", "reply_to": "rollback:entries:replies"}
        return ids + client("stream_add", stream=stream, entries=[{"a": 1}], **stamps)["ids"]

    def read() -> dict[str, Any]:
        return {entry["id"]: entry for entry in client("stream_read", stream=stream, count=100)["entries"]}

    new = add()
    before = read()
    yield
    assert read() == before
    old = add()
    both = read()
    yield
    assert read() == both
    assert list(both) == new + old
    for ids in (new, old):
        assert [both[entry_id]["fields"] for entry_id in ids[:-1]] == list(SHAPES.values())
        assert both[ids[-1]] == both[new[-1]] | {key: both[ids[-1]][key] for key in ("id", "time")}
    assert len({entry["sender"] for entry in both.values()}) == 1


@case
def cursors_go_on_where_they_were(client: Client) -> Iterator[None]:
    first, second = "rollback:cursors:first", "rollback:cursors:second"
    waiting: dict[str, Any] = {"streams": [first, second], "timeout_seconds": 0, "count": 3}
    pages = {
        "read": ("stream_read", {"stream": first, "count": 2}, "entries", "id"),
        "backward": ("stream_read", {"stream": first, "count": 2, "direction": "backward"}, "entries", "id"),
        "wait": ("stream_wait", waiting, "entries", "id"),
        "list": ("stream_list", {"pattern": "rollback:cursors:*", "count": 1}, "streams", "stream"),
        "pending": ("pending_list", {"stream": first, "group": GROUP, "count": 2}, "entries", "id"),
        "dead": ("dead_letter_replay", {"stream": second, "group": GROUP, "count": 1}, "entries", "id"),
    }
    cursors: dict[str, str | None] = {"wait": client("stream_wait", **waiting)["next_cursor"]}
    seen: dict[str, list[str]] = {name: [] for name in pages}

    def turn() -> None:
        for name, (tool, arguments, members, key) in pages.items():
            cursor = cursors.get(name)
            answer = client(tool, **arguments, **({} if cursor is None else {"cursor": cursor}))
            seen[name] += [each[key] for each in answer[members]]
            cursors[name] = answer.get("next_cursor")

    ones, twos = client.add(first, *"abcdef"), client.add(second, *"ghi")
    held = client.take(first, lease_seconds=HOUR)["lease"]
    client("work_fail", lease=client.take(second)["lease"], action="dead_letter")
    turn()
    yield
    turn()
    yield
    turn()
    assert seen["read"] == ones
    assert seen["backward"] == ones[::-1]
    assert sorted(seen["wait"]) == sorted(ones + twos)
    assert seen["list"] == [first, second][: len(seen["list"])]
    assert seen["pending"] == ones
    assert len(set(seen["dead"])) == 3
    client.settle("work_done", held, expect={"done": ones})


@case
def adds_with_the_same_key_add_nothing(client: Client) -> Iterator[None]:
    stream = "rollback:repeated:adds"
    new: dict[str, Any] = {"stream": stream, "entries": list(SHAPES.values()), "idempotency_key": "new"}
    old: dict[str, Any] = {
        "stream": stream,
        "entries": [{"a": 1}, {"b": [2]}],
        "idempotency_key": "old \u00e4 {2}",
        "correlation_id": "c",
        "reply_to": "r:r:r",
        "max_length": 1000,
    }

    def repeated(arguments: dict[str, Any], ids: list[str]) -> None:
        length = client.server.command("XLEN", stream)
        again = client("stream_add", **arguments)
        assert (again["ids"], again["duplicate"]) == (ids, True)
        other = arguments | {"entries": [{"another": "body"}]}
        assert client.refused("stream_add", **other) == Code.INVALID_ARGUMENT
        assert client.server.command("XLEN", stream) == length

    new_ids = client("stream_add", **new)["ids"]
    yield
    repeated(new, new_ids)
    old_ids = client("stream_add", **old)["ids"]
    yield
    repeated(new, new_ids)
    repeated(old, old_ids)


@case
def takes_with_the_same_key_take_the_same(client: Client) -> Iterator[None]:
    stream = "rollback:repeated:takes"
    a, b, c = client.add(stream, *"abc")
    first = client.take(stream, lease_seconds=HOUR, idempotency_key="new")
    assert taken(first) == {a: 1, b: 1, c: 1}
    yield
    again = client.take(stream, lease_seconds=HOUR, idempotency_key="new")
    assert again["duplicate"] is True
    assert differences(first["entries"], again["entries"], {}) == []
    client.settle("work_done", again["lease"], entry_ids=[a], expect={"done": [a]})
    (d,) = client.add(stream, "d")
    old = client.take(stream, "bob", lease_seconds=HOUR, idempotency_key="old")
    assert taken(old) == {d: 1}
    yield
    again = client.take(stream, lease_seconds=HOUR, idempotency_key="new")
    assert (again["duplicate"], taken(again)) == (True, {b: 1, c: 1})
    client.settle("work_done", first["lease"], expect={"done": [b, c], "already_done": [a]})
    again = client.take(stream, "bob", lease_seconds=HOUR, idempotency_key="old")
    assert (again["duplicate"], taken(again)) == (True, {d: 1})
    client.settle("work_done", again["lease"], expect={"done": [d]})
    used_up = client.take(stream, lease_seconds=HOUR, idempotency_key="new")
    assert (used_up["duplicate"], taken(used_up)) == (True, {})


def _tokens_of_the_new(client: Client, stream: str, **length: float) -> Iterator[None]:
    a, b, c, d, e, f, g = client.add(stream, *"abcdefg")
    lease = client.take(stream, **length)["lease"]
    client.settle("work_done", lease, entry_ids=[a], expect={"done": [a]})
    expires = client.held(stream, "lease_expires")
    yield
    assert client.held(stream, "lease_expires") == expires
    assert taken(client.take(stream, "bob")) == {}
    client.settle("work_done", lease, entry_ids=[a], expect={"already_done": [a]})
    client.settle("work_done", lease, entry_ids=[b], expect={"done": [b]})
    extended = client.settle(
        "work_extend", lease, entry_ids=[c], lease_seconds=2 * HOUR, expect={"extended": [c]}
    )
    client.settle("work_fail", lease, entry_ids=[d], action="release", expect={"retried": [d]})
    client.settle("work_fail", lease, entry_ids=[e], delay_seconds=0, expect={"retried": [e]})
    refusal: dict[str, Any] = {"action": "dead_letter", "reason": "no"}
    client.settle("work_fail", lease, entry_ids=[f], **refusal, expect={"dead_lettered": [f]})
    next_millisecond(client.server)
    over = client.take(stream, "bob", lease_seconds=HOUR)
    assert taken(over) == {d: 2, e: 2}
    client.settle("work_done", over["lease"], entry_ids=[d], expect={"done": [d]})
    assert client.refused("work_done", lease=lease, entry_ids=[e]) == Code.LEASE_LOST
    held = client.held(stream, "lease_expires")
    assert held == {c: extended["lease_expires"], e: over["lease_expires"], g: expires[g]}
    yield
    assert client.held(stream, "lease_expires") == held
    assert client.refused("work_done", lease=lease, entry_ids=[e]) == Code.LEASE_LOST
    settled = {"done": [c, g], "already_done": [a, b, d, f], "lost": [e]}
    client.settle("work_done", lease, expect=settled)
    client.settle("work_done", over["lease"], expect={"done": [e], "already_done": [d]})


@case
def tokens_of_the_default_length_are_settled_by_the_old_release(client: Client) -> Iterator[None]:
    return _tokens_of_the_new(client, "rollback:tokens:default")


@case
def tokens_of_a_length_of_their_own_are_settled_by_the_old_release(client: Client) -> Iterator[None]:
    return _tokens_of_the_new(client, "rollback:tokens:own", lease_seconds=HOUR)


@case
def tokens_of_the_old_release_are_settled_afterwards(client: Client) -> Iterator[None]:
    stream = "rollback:tokens:old"
    a, b, c, d, e = client.add(stream, *"abcde")
    yield
    old = client.take(stream, lease_seconds=HOUR)
    assert taken(old) == dict.fromkeys((a, b, c, d, e), 1)
    lease = old["lease"]
    expires = client.held(stream, "lease_expires")
    yield
    assert client.held(stream, "lease_expires") == expires
    client.settle("work_done", lease, entry_ids=[a], expect={"done": [a]})
    client.settle("work_extend", lease, entry_ids=[b], lease_seconds=2 * HOUR, expect={"extended": [b]})
    client.settle("work_extend", lease, entry_ids=[c], expect={"extended": [c]})
    client.settle("work_fail", lease, entry_ids=[d], action="release", expect={"retried": [d]})
    client.settle("work_fail", lease, entry_ids=[e], action="dead_letter", expect={"dead_lettered": [e]})
    next_millisecond(client.server)
    over = client.take(stream, "bob")
    assert taken(over) == {d: 2}
    client.settle("work_done", over["lease"], expect={"done": [d]})
    client.settle("work_done", lease, expect={"done": [b, c], "already_done": [a, d, e]})


@case
def what_a_consumer_held_is_resumed(client: Client) -> Iterator[None]:
    stream = "rollback:work:resumed"
    a, b = client.add(stream, *"ab")
    first = client.take(stream, lease_seconds=HOUR)["lease"]
    yield
    second = client.take(stream, resume=True, lease_seconds=HOUR)
    assert taken(second) == {a: 2, b: 2}
    assert client.refused("work_done", lease=first) == Code.LEASE_LOST
    client.settle("work_done", second["lease"], entry_ids=[a], expect={"done": [a]})
    yield
    third = client.take(stream, resume=True)
    assert taken(third) == {b: 3}
    assert client.refused("work_done", lease=second["lease"], entry_ids=[b]) == Code.LEASE_LOST
    client.settle("work_done", third["lease"], expect={"done": [b]})


@case
def what_was_released_is_taken_at_once_and_its_history_is_kept(client: Client) -> Iterator[None]:
    stream = "rollback:work:released"
    a, b = client.add(stream, *"ab")
    lease = client.take(stream)["lease"]
    release: dict[str, Any] = {"action": "release", "reason": "busy \u00e4"}
    client.settle("work_fail", lease, **release, expect={"retried": [a, b]})
    yield
    # Repeating it changes nothing; the other entry is as the first call left it.
    client.settle("work_fail", lease, entry_ids=[a], **release, expect={"retried": [a]})
    again = client.take(stream, "bob")
    assert taken(again) == {a: 2, b: 2}
    assert client.refused("work_done", lease=lease) == Code.LEASE_LOST
    release["reason"] = "busy, too"
    client.settle("work_fail", again["lease"], **release, expect={"retried": [a, b]})
    yield
    client.settle("work_fail", again["lease"], entry_ids=[a], **release, expect={"retried": [a]})
    last = client.take(stream, "carol")
    assert taken(last) == {a: 3, b: 3}
    client.settle("work_done", last["lease"], entry_ids=[a], expect={"done": [a]})
    client.settle(
        "work_fail", last["lease"], entry_ids=[b], action="dead_letter", expect={"dead_lettered": [b]}
    )
    (letter,) = client.letters(stream)["entries"]
    history = [
        (each["attempt"], each["consumer"], each["reason"]) for each in letter["dead_letter"]["history"]
    ]
    assert history == [(1, "alice", "busy \u00e4"), (2, "bob", "busy, too")]


def _put_off_for_long(client: Client, stream: str) -> tuple[str, str, str]:
    """Put an entry off for longer than the tests take; return its ID, the lease, and when it is due."""
    (entry_id,) = client.add(stream, "a")
    lease = client.take(stream)["lease"]
    delay: dict[str, Any] = {"delay_seconds": 600, "reason": "not yet"}
    answer = client.settle("work_fail", lease, **delay, expect={"retried": [entry_id]})
    return entry_id, lease, answer["retry_at"]


def _same_time(shown: str, told: str) -> bool:
    # Due times of what is put off end in half a millisecond for the old release, which cuts that off.
    return milliseconds_of(told) - milliseconds_of(shown) in (0, 1)


@case
def what_is_put_off_is_listed_so_and_not_taken_before(client: Client) -> Iterator[None]:
    stream = f"{LATER}:listed"
    put_off: dict[str, str] = {}

    def put_one_off() -> None:
        entry_id, _, due = _put_off_for_long(client, stream)
        put_off[entry_id] = due

    def check() -> None:
        assert taken(client.take(stream, "bob")) == {}
        listed = client.held(stream, "retry_at")
        assert listed.keys() == put_off.keys()
        assert all(_same_time(due, put_off[entry_id]) for entry_id, due in listed.items())

    put_one_off()
    yield
    check()
    put_one_off()
    check()
    yield
    check()


@case
def what_is_put_off_is_not_resumed(client: Client) -> Iterator[None]:
    stream = f"{LATER}:resumed"
    _put_off_for_long(client, stream)
    yield
    assert taken(client.take(stream, resume=True)) == {}
    _put_off_for_long(client, stream)
    yield
    assert taken(client.take(stream, resume=True)) == {}


@case
def what_was_put_off_is_settled(client: Client) -> Iterator[None]:
    stream = f"{LATER}:settled"
    put_off: list[tuple[str, str, str]] = []

    def check() -> None:
        for entry_id, lease, due in put_off:
            client.settle("work_done", lease, expect={"already_done": [entry_id]})
            again = client.settle("work_fail", lease, expect={"retried": [entry_id]})
            assert _same_time(again["retry_at"], due)

    put_off.append(_put_off_for_long(client, stream))
    yield
    check()
    put_off.append(_put_off_for_long(client, stream))
    yield
    check()


@case
def dead_letters_are_listed_replayed_and_taken(client: Client) -> Iterator[None]:
    stream = "rollback:work:dead"
    worn, refused = client.add(stream, "worn out", "refused", correlation_id="c-1")
    lease = client.take(stream, count=1, max_deliveries=2)["lease"]
    client.settle("work_fail", lease, action="release", reason="first", expect={"retried": [worn]})
    next_millisecond(client.server)
    lease = client.take(stream, count=1, max_deliveries=2)["lease"]
    client.settle("work_fail", lease, action="release", reason="second", expect={"dead_lettered": [worn]})
    lease = client.take(stream, "bob")["lease"]
    client.settle("work_fail", lease, action="dead_letter", reason="no", expect={"dead_lettered": [refused]})
    before = client.letters(stream)
    assert before["total"] == 2
    yield
    assert client.letters(stream) == before
    (replayed,) = client.letters(stream, action="replay", count=1, dry_run=False)["replayed"]
    again = client.take(stream, "carol")
    assert taken(again) == {replayed["new_id"]: 1}
    for part in ("fields", "sender", "correlation_id"):
        assert again["entries"][0][part] == before["entries"][0][part]
    fail: dict[str, Any] = {"action": "dead_letter", "reason": "again"}
    client.settle("work_fail", again["lease"], **fail, expect={"dead_lettered": [replayed["new_id"]]})
    listed = client.letters(stream)
    yield
    assert client.letters(stream) == listed
    assert [letter["dead_letter"]["reason"] for letter in listed["entries"]] == ["no", "again"]
    replays = client.letters(stream, action="replay", dry_run=False)["replayed"]
    last = client.take(stream)
    assert taken(last) == {each["new_id"]: 1 for each in replays}
    assert [entry["fields"]["task"] for entry in last["entries"]] == ["refused", "worn out"]
    client.settle("work_done", last["lease"], expect={"done": list(taken(last))})
    assert client.letters(stream)["total"] == 0


@case
def the_limit_of_a_group_goes_with_its_tokens(client: Client) -> Iterator[None]:
    stream = "rollback:work:limited"
    client("group_create", stream=stream, group=GROUP, max_deliveries=1)

    def take_one(name: str, **more: Any) -> tuple[str, str]:
        (entry_id,) = client.add(stream, name)
        answer = client.take(stream, lease_seconds=HOUR, **more)
        assert taken(answer) == {entry_id: 1}
        return entry_id, answer["lease"]

    def fail(one: tuple[str, str], outcome: str) -> None:
        entry_id, lease = one
        client.settle("work_fail", lease, delay_seconds=0, expect={outcome: [entry_id]})

    limited, allowed = take_one("limited"), take_one("allowed", max_deliveries=5)
    yield
    # The old release knows of no limit of the group: what it takes goes by its setting.
    old, another = take_one("old"), take_one("another")
    fail(limited, "dead_lettered")
    fail(allowed, "retried")
    fail(old, "retried")
    yield
    # A token of the old release may be of a taker who asked for more, so it allows what it says.
    fail(another, "retried")
    next_millisecond(client.server)
    # The group still has its limit.
    assert client.take(stream)["dead_lettered"] == 3
    client.letters(stream, action="replay", dry_run=False)
    last = client.take(stream)
    assert len(taken(last)) == 4
    client.settle("work_done", last["lease"], expect={"done": list(taken(last))})
    for entry_id in (allowed[0], old[0], another[0]):
        client.dead_lettered.add((stream, entry_id))


@case
def a_dead_letter_whose_fields_stayed_in_the_stream_is_pending_again(client: Client) -> Iterator[None]:
    stream = "rollback:work:large"
    entry_id = client.server.command("XADD", stream, "*", *("f", "") * TOO_MANY_FIELDS).decode()

    def dead_letter_and_replay() -> None:
        answer = client.take(stream)
        assert taken(answer) == {entry_id: 1}
        fail: dict[str, Any] = {"action": "dead_letter", "expect": {"dead_lettered": [entry_id]}}
        client.settle("work_fail", answer["lease"], **fail)
        (replayed,) = client.letters(stream, action="replay", dry_run=False)["replayed"]
        assert replayed["returned"] == entry_id

    dead_letter_and_replay()
    yield
    dead_letter_and_replay()
    yield
    last = client.take(stream, "bob")
    assert taken(last) == {entry_id: 1}
    client.settle("work_done", last["lease"], expect={"done": [entry_id]})


@case
def entries_of_a_removed_consumer_are_passed_on(client: Client) -> Iterator[None]:
    stream = "rollback:work:removed"

    def remove(consumer: str, **pending: str) -> None:
        where = {"stream": stream, "group": GROUP, "consumer": consumer}
        client("group_manage", action="remove_consumer", **where, **pending, dry_run=False)

    a, b = client.add(stream, *"ab")
    client.take(stream, "alice", count=1, lease_seconds=HOUR)
    client.take(stream, "bob", count=1, lease_seconds=HOUR)
    remove("alice", pending="release")
    remove("bob", pending="hand_over", to_consumer="carol")
    yield
    released = client.take(stream, "dave", lease_seconds=HOUR)
    assert taken(released) == {a: 2}
    handed_over = client.take(stream, "carol", resume=True, lease_seconds=HOUR)
    assert taken(handed_over) == {b: 2}
    remove("dave", pending="release")
    remove("carol", pending="hand_over", to_consumer="erin")
    yield
    released = client.take(stream, "frank")
    assert taken(released) == {a: 3}
    handed_over = client.take(stream, "erin", resume=True)
    assert taken(handed_over) == {b: 3}
    client.settle("work_done", released["lease"], expect={"done": [a]})
    client.settle("work_done", handed_over["lease"], expect={"done": [b]})


@case
def a_group_that_the_old_release_destroyed_begins_anew(client: Client) -> Iterator[None]:
    stream = "rollback:groups:anew"
    client("group_create", stream=stream, group=GROUP)
    (a,) = client.add(stream, "a")
    first = client.take(stream, lease_seconds=HOUR)["lease"]
    yield
    where = {"stream": stream, "group": GROUP}
    client("group_manage", action="destroy", **where, dry_run=False)
    assert client("group_create", **where)["created"] is True
    second = client.take(stream, lease_seconds=HOUR)
    assert taken(second) == {a: 1}
    yield
    # The same consumer and attempt, but of the group before.
    assert client.refused("work_done", lease=first) == Code.LEASE_LOST
    client.settle("work_done", second["lease"], expect={"done": [a]})


@case
def requests_are_answered_with_tokens_of_the_other_release(client: Client) -> Iterator[None]:
    new: dict[str, Any] = {"stream": "rollback:requests:new", "entry": {"q": 1}, "correlation_id": "q-1"}
    old: dict[str, Any] = {"stream": "rollback:requests:old", "entry": {"q": 2}, "idempotency_key": "q-2"}

    def ask(asked: dict[str, Any]) -> dict[str, Any]:
        return client("request_reply", **asked, timeout_seconds=0)

    new_id = ask(new)["request_id"]
    new_lease = client.take(new["stream"], lease_seconds=HOUR)["lease"]
    yield
    assert (ask(new)["answered"], ask(new)["resumed"]) == (False, True)
    done = client.settle("work_done", new_lease, reply={"answer": 1}, expect={"done": [new_id]})
    reply = ask(new)["reply"]
    assert (reply["id"], reply["fields"]) == (done["reply"]["id"], {"answer": 1})
    old_id = ask(old)["request_id"]
    old_lease = client.take(old["stream"], lease_seconds=HOUR)["lease"]
    yield
    assert ask(new)["reply"] == reply
    repeated = client.settle("work_done", new_lease, reply={"answer": 1}, expect={"already_done": [new_id]})
    assert (repeated["reply"]["id"], repeated["reply"]["duplicate"]) == (reply["id"], True)
    assert (ask(old)["answered"], ask(old)["resumed"]) == (False, True)
    done = client.settle("work_done", old_lease, reply={"answer": 2}, expect={"done": [old_id]})
    answered = ask(old)["reply"]
    assert (answered["id"], answered["fields"]) == (done["reply"]["id"], {"answer": 2})


@case
def a_request_in_flight_is_answered_after_the_exchange(client: Client) -> Iterator[None]:
    stream = "rollback:requests:flying"

    def ask(number: int) -> Any:
        asked: dict[str, Any] = {"stream": stream, "entry": {"q": number}, "correlation_id": f"f-{number}"}
        waiting = client.send("request_reply", **asked, timeout_seconds=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while client.server.command("XLEN", stream) < number:
            assert time.monotonic() < deadline
        return waiting

    def finish(waiting: Any) -> None:
        # The daemon answered as it ended, and said how to go on.
        answer = answer_of(waiting)
        assert answer["answered"] is False
        work = client.take(stream)
        assert taken(work) == {answer["request_id"]: 1}
        done = client.settle(
            "work_done", work["lease"], reply={"ok": True}, expect={"done": [answer["request_id"]]}
        )
        late = client(answer["next_call"]["tool"], **answer["next_call"]["arguments"])
        match = answer["next_call"]["match"]
        replies = [entry for entry in late["entries"] if entry.items() >= match.items()]
        assert [entry["id"] for entry in replies] == [done["reply"]["id"]]

    waiting = ask(1)
    yield
    finish(waiting)
    waiting = ask(2)
    yield
    finish(waiting)


@case
def keys_beside_the_streams_are_not_listed(client: Client) -> Iterator[None]:
    def check() -> None:
        keys = [key.decode() for key in client.server.command("KEYS", "rollback:*")]
        streams = client("stream_list", pattern="rollback:*", count=100)["streams"]
        assert [each["stream"] for each in streams] == sorted(key for key in keys if ":rs:" not in key)
        assert len(keys) > len(streams) > 10

    check()
    yield
    check()
    yield
    check()


# The cases that wait come last, when most of the time has passed.


@case
def a_lease_that_ran_out_is_finished_late_or_taken_over(client: Client) -> Iterator[None]:
    stream = "rollback:work:expired"
    late, lost = client.add(stream, "late", "lost")
    first = client.take(stream, lease_seconds=1)
    yield
    client.settle("work_done", first["lease"], entry_ids=[late], expect={"done": [late]})
    second = client.take_in_time(stream, "bob", first["lease_expires"], lease_seconds=1)
    assert taken(second) == {lost: 2}
    assert client.refused("work_done", lease=first["lease"], entry_ids=[lost]) == Code.LEASE_LOST
    yield
    third = client.take_in_time(stream, "carol", second["lease_expires"])
    assert taken(third) == {lost: 3}
    assert client.refused("work_done", lease=second["lease"]) == Code.LEASE_LOST
    client.settle("work_done", third["lease"], expect={"done": [lost]})


@case
def what_was_put_off_is_taken_in_time(client: Client) -> Iterator[None]:
    stream = "rollback:work:soon"
    (entry_id,) = client.add(stream, "soon")

    def put_off(lease: str) -> str:
        retry_at: str = client.settle(
            "work_fail", lease, delay_seconds=1.5, reason="in a moment", expect={"retried": [entry_id]}
        )["retry_at"]
        return retry_at

    due = put_off(client.take(stream)["lease"])
    yield
    again = client.take_in_time(stream, "bob", due)
    assert taken(again) == {entry_id: 2}
    due = put_off(again["lease"])
    yield
    last = client.take_in_time(stream, "carol", due)
    assert taken(last) == {entry_id: 3}
    client.settle("work_done", last["lease"], expect={"done": [entry_id]})


@attrs.define
class Course:
    """How the cases went.

    Attributes:
        client: The client, when all was over.
        release: The one before.
        failures: Name of a case -> what went wrong in it.
        told: Names of the cases whose failure was raised.
        loaded: For each daemon the package that it had to run, and the files that its modules came from.
    """

    client: Client
    release: str
    failures: dict[str, Exception] = attrs.field(factory=dict)
    told: set[str] = attrs.field(factory=set)
    loaded: list[tuple[Path, list[Path]]] = attrs.field(factory=list)


def run(client: Client, release: str) -> Course:
    """Run all cases with the present version, with a release before it, and with the present one again."""
    course = Course(client, release)
    present = Package(Path(redstreamd.__file__).parents[1])
    cases = {function.__name__: function(client) for function in CASES}
    with home() as place, old_package(release) as old:
        for package in (present, old, present):
            options = {"REDSTREAMD_TOOLS_PROFILE": "operator"}
            if package is present:
                # An operator who may go back sets it.
                options["REDSTREAMD_RECORDS_PLAIN_HASHES"] = "true"
            with package.running(client.server, place, **options) as client.daemon:
                for name in [name for name in cases if name not in course.failures]:
                    try:
                        next(cases[name], None)
                    except Exception as error:  # noqa: BLE001 - it is raised in the test of the case
                        course.failures[name] = error
            course.loaded.append((package.directory / "redstreamd", package.loaded))
    for name in cases.keys() - course.failures.keys():
        if inspect.getgeneratorstate(cases[name]) != inspect.GEN_CLOSED:
            course.failures[name] = AssertionError("the case did not come to its end")
    return course


@pytest.fixture(scope="module", params=["redis", pytest.param("valkey", marks=LONG)])
def server(request: pytest.FixtureRequest) -> Server:
    """The server of all the daemons, empty. Valkey is left to the soak, since daemons take long to start."""
    chosen: Server = request.getfixturevalue(f"{request.param}_server")
    chosen.flush()
    return chosen


@pytest.fixture(scope="module", params=RELEASES)
def course(request: pytest.FixtureRequest, server: Server) -> Iterator[Course]:
    """How the cases went, with each release that is kept."""
    with running_clock() as clock, contextlib.closing(Client(server, clock)) as client:
        yield run(client, request.param)


def test_the_package_of_a_release_is_kept() -> None:
    assert "0.1.0" in RELEASES


def test_each_daemon_runs_the_code_that_it_has_to(course: Course) -> None:
    present, old, again = course.loaded
    assert present == again
    assert old[0] != present[0]
    for package, files in course.loaded:
        assert package / "streams" / "leases.py" in files
        assert [file for file in files if not file.is_relative_to(package)] == []


@pytest.mark.parametrize("name", [function.__name__ for function in CASES])
def test_data_and_tokens_work_after_a_rollback_and_forward_again(course: Course, name: str) -> None:
    if name in course.told and isinstance(course.failures.get(name), BoundError):
        # What was out of its bounds is measured again, with all that it followed from.
        go_again(course)
    if name in course.failures:
        course.told.add(name)
        raise course.failures[name]


def go_again(course: Course) -> None:
    """Run all cases anew, as if nothing had been before."""
    course.client.server.flush()
    course.client.forget()
    again = run(course.client, course.release)
    course.failures, course.loaded = again.failures, again.loaded


def test_nothing_is_pending_or_lost_or_finished_twice(course: Course) -> None:
    client = course.client
    assert set(client.finished.values()) == {1}
    streams = [key.decode() for key in client.server.command("KEYS", "rollback:*") if b":rs:" not in key]
    assert {stream for stream, _ in client.finished} < set(streams)
    for stream in streams:
        if not client.server.command("XINFO", "GROUPS", stream):
            continue
        ids = {
            (stream, entry_id.decode()) for entry_id, _ in client.server.command("XRANGE", stream, "-", "+")
        }
        left = ids - client.finished.keys() - client.dead_lettered
        assert client.pending(stream) == len(left), stream
        assert len(left) == (2 if stream.startswith(LATER) else 0), stream
