"""Encryption in every way that content takes: what Redis holds, what callers get, and who cannot read it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import pytest
import trio

from redstreamd.encryption.encryption_rules import EncryptionRule, EncryptionRules
from redstreamd.encryption.key_ring import Key, KeyRing
from redstreamd.policy import Policy, Rule
from redstreamd.presentation.views import Views
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.settings import RecordsSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import Stamp, encode
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_ids import join_cursor
from redstreamd.streams.names import Kind, companion_key, judged_by
from redstreamd.streams.plans import run_plan
from redstreamd.streams.take_values import Take
from tests.mcp_server.test_ownership import two_clients
from tests.support.buses import asleep, running_bus
from tests.support.calls import ME, call, refusal, texts
from tests.support.longest_step import LongestStep
from tests.support.measured import measured
from tests.support.servers import Server
from tests.support.two_ways import HANDSHAKES, MODERN, call_line, running_way, surface_over

K1, K2 = Key("k1", secrets.token_bytes(32)), Key("k2", secrets.token_bytes(32))
SECRET = "a-secret-nobody-may-see"
IN_PLACE, HIDDEN = "* are encrypted except kind", "* are encrypted with names except kind"
BOTH = pytest.mark.parametrize("rule", [IN_PLACE, HIDDEN])


def ring(*keys: Key, writing: Key | None = None) -> KeyRing:
    return KeyRing({key.id: key for key in keys}, writing)


def rules(*texts: str) -> EncryptionRules:
    return EncryptionRules([EncryptionRule.parse(text) for text in texts], judged_by)


def encryption(*texts: str, keys: Sequence[Key] = (K1,), writing: Key | None = K1) -> Encryption:
    return Encryption(ring(*keys, writing=writing), rules(*texts))


@asynccontextmanager
async def encrypted(server: Server, *texts: str) -> AsyncIterator[Bus]:
    async with running_bus(server, encryption=encryption(*texts)) as bus:
        yield bus


async def stored(bus: Bus, key: str) -> str:
    """Return all that a stream holds, as one text."""
    return repr(await bus.redis.execute("XRANGE", key, "-", "+", key=key, retry_safe=True))


MEMBERS = {"kind": "order", "token": SECRET, "list": [1, {"a": SECRET}], "n": 12, "ö": "ü"}


@BOTH
async def test_what_is_added_in_any_way_is_read_again_and_redis_does_not_hold_it(
    redis: Server, rule: str
) -> None:
    async with encrypted(redis, rule) as bus:
        await call(bus, "stream_add", stream="a:b:c", entries=[MEMBERS])
        await call(bus, "stream_add", stream="a:b:c", entries=[MEMBERS, {}, {"kind": "x"}])
        await call(bus, "stream_add", stream="a:b:c", entries=[MEMBERS], durability="replicated")
        again = {"stream": "a:b:c", "entries": [MEMBERS], "idempotency_key": "k"}
        first = await call(bus, "stream_add", **again)
        second = await call(bus, "stream_add", **again)
        assert second["duplicate"] is True
        assert second["ids"] == first["ids"]
        await call(bus, "add_stream_message", stream="a:b:c", message=MEMBERS)
        held = await stored(bus, "a:b:c")
        assert SECRET not in held
        assert held.count("b'_rs.enc', b'1 k1 ") == 7
        assert ("token" in held) is (rule == IN_PLACE)
        read = await call(bus, "stream_read", stream="a:b:c")
        assert [entry["fields"] for entry in read["entries"]] == [
            MEMBERS, MEMBERS, {}, {"kind": "x"}, MEMBERS, MEMBERS, MEMBERS,
        ]  # fmt: skip
        assert all(entry["sender"] == "me" and "unreadable" not in entry for entry in read["entries"])
        read = await call(bus, "stream_read", stream="a:b:c", filter={"kind": "x"}, count=1)
        assert [entry["fields"] for entry in read["entries"]] == [{"kind": "x"}]
        waited = await call(
            bus,
            "stream_wait",
            streams=["a:b:c", "d"],
            cursor=join_cursor(["a:b:c", "d"], ["0-0", "0-0"]),
            timeout_seconds=5,
        )
        assert waited["entries"][0]["fields"] == MEMBERS
        waited = await call(bus, "stream_wait", streams=["a:b:c"], cursor="0-0", timeout_seconds=5)
        assert waited["entries"][0]["fields"] == MEMBERS
        messages = await texts(bus, "get_stream_messages", stream="a:b:c")
        assert messages[0]["message"] == MEMBERS
        views = Views(bus, None)  # type: ignore[arg-type]
        entry_id = read["entries"][0]["id"]
        assert (await views.entry("a:b:c", entry_id))["fields"] == {"kind": "x"}
        assert (await views.field("a:b:c", first["ids"][0], "token")).content == SECRET
        assert (await views.field("a:b:c", first["ids"][0], "list")).is_json
        assert (await views.stream("a:b:c"))["latest_entries"][0]["fields"] == MEMBERS


@BOTH
async def test_work_its_reasons_and_its_dead_letters_are_encrypted(redis: Server, rule: str) -> None:
    async with encrypted(redis, rule) as bus:
        await call(bus, "stream_add", stream="q", entries=[MEMBERS])
        take = {"stream": "q", "group": "g", "consumer": "c", "start": "earliest"}
        taken = await call(bus, "work_take", **take, max_deliveries=2)
        assert taken["entries"][0]["fields"] == MEMBERS
        long = f"{SECRET} {'ä' * 500}"
        await call(bus, "work_fail", lease=taken["lease"], reason=long, delay_seconds=0)
        taken = await call(bus, "work_take", **take, timeout_seconds=5)
        failed = await call(bus, "work_fail", lease=taken["lease"], reason=long, delay_seconds=0)
        assert len(failed["dead_lettered"]) == 1
        dead = companion_key("q", Kind.DEAD, "g")
        assert SECRET not in await stored(bus, dead)
        letters = await call(bus, "dead_letter_replay", stream="q", group="g")
        (letter,) = letters["entries"]
        assert letter["fields"] == MEMBERS
        assert letter["encrypted"] == {"key": "k1", "bound_to": "q"}
        assert letter["dead_letter"]["reason"] == long
        brief = letter["dead_letter"]["history"][0]["reason"]
        assert long.startswith(brief)
        assert 190 <= len(brief.encode()) <= 200
        # By the name of the key, too.
        assert (await call(bus, "stream_read", stream=dead))["entries"][0]["fields"] == MEMBERS
        replayed = await call(
            bus, "dead_letter_replay", stream="q", group="g", action="replay", dry_run=False
        )
        (new_id,) = [each["new_id"] for each in replayed["replayed"]]
        taken = await call(bus, "work_take", **take)
        assert [(each["id"], each["fields"]) for each in taken["entries"]] == [(new_id, MEMBERS)]


@BOTH
async def test_requests_and_replies_are_encrypted(redis: Server, rule: str) -> None:
    async with encrypted(redis, rule) as bus, trio.open_nursery() as nursery:
        answers: list[dict[str, Any]] = []
        answered = trio.Event()

        async def ask() -> None:
            answers.append(await call(bus, "request_reply", stream="r", entry=MEMBERS, timeout_seconds=20))
            answered.set()

        nursery.start_soon(ask)
        taken = await call(bus, "work_take", stream="r", group="g", consumer="c", timeout_seconds=20)
        assert taken["entries"][0]["fields"] == MEMBERS
        reply_to = taken["entries"][0]["reply_to"]
        await call(bus, "work_done", lease=taken["lease"], reply={"said": SECRET})
        await answered.wait()
        assert answers[0]["reply"]["fields"] == {"said": SECRET}
        assert SECRET not in await stored(bus, "r") + await stored(bus, reply_to)


async def test_a_filter_of_an_encrypted_field_is_refused_by_name(redis: Server) -> None:
    async with encrypted(redis, IN_PLACE) as bus:
        await call(bus, "stream_add", stream="s", entries=[MEMBERS])
        for tool, where in (
            ("stream_read", {"stream": "s"}),
            ("stream_wait", {"streams": ["s"]}),
            ("stream_wait", {"streams": ["s"], "cursor": "0-0"}),
        ):
            error = await refusal(bus, tool, **where, filter={"kind": "order", "token": SECRET})
            assert error["code"] == "INVALID_ARGUMENT"
            assert "'token'" in error["message"]
            assert SECRET not in str(error)


async def test_without_its_key_nothing_is_written_and_work_goes_on(redis: Server) -> None:
    async with encrypted(redis, IN_PLACE) as bus:
        await call(bus, "stream_add", stream="s", entries=[MEMBERS, MEMBERS])
        take = {"stream": "s", "group": "g", "consumer": "c", "start": "earliest"}
        bus.encryption.reconfigure(ring(), rules(IN_PLACE))
        for more in ({}, {"idempotency_key": "k"}, {"durability": "replicated"}):
            error = await refusal(bus, "stream_add", stream="s", entries=[MEMBERS], **more)
            assert error["code"] == "NO_ENCRYPTION_KEY"
        taken = await call(bus, "work_take", **take, count=2)
        for entry in taken["entries"]:
            assert entry["fields"] == {"kind": "order"}
            assert entry["unreadable"]["key"] == "k1"
            assert all(entry["unreadable"][part] for part in ("cause", "next_step"))
        await call(
            bus, "work_fail", lease=taken["lease"], action="dead_letter", reason=SECRET,
            entry_ids=[taken["entries"][0]["id"]],
        )  # fmt: skip
        await call(bus, "work_done", lease=taken["lease"], entry_ids=[taken["entries"][1]["id"]])
        (letter,) = (await call(bus, "dead_letter_replay", stream="s", group="g"))["entries"]
        assert letter["unreadable"]["key"] == "k1"
        assert "no key" in letter["dead_letter"]["reason"]
        assert (await texts(bus, "get_stream_messages", stream="s"))[0]["unreadable"]["key"] == "k1"
        bus.encryption.reconfigure(ring(K1, K2, writing=K2), rules())
        await call(bus, "stream_add", stream="s", entries=[MEMBERS])
        read = await call(bus, "stream_read", stream="s")
        assert [entry["fields"] for entry in read["entries"]] == [MEMBERS] * 3


async def test_what_is_taken_is_opened_by_a_key_that_came_meanwhile(redis: Server) -> None:
    async with encrypted(redis, IN_PLACE) as bus:
        await call(bus, "stream_add", stream="s", entries=[MEMBERS])
        bus.encryption.reconfigure(ring(), rules())
        plan = bus.work.plan_take(Take("s", "g", "c", 1, 60.0, None, "0"), ME)
        assert plan is not None
        bus.encryption.reconfigure(ring(K1, writing=K1), rules())
        (entry,) = (await run_plan(bus.redis, plan)).taken.entries
        assert decode(entry.fields).members == MEMBERS


@BOTH
async def test_what_waits_for_a_release_is_encrypted_and_bound_to_where_it_goes(
    redis: Server, rule: str
) -> None:
    async with encrypted(redis, rule) as bus:
        policy = Policy(
            [Rule.parse("ann may read publish consume manage on *"), Rule.parse("bob may submit on *")],
            judged=judged_by,
        )
        async with two_clients(bus, direct=True, revision=MODERN, policy=policy) as (ann, bob):
            for more in ({}, {"idempotency_key": "k"}):
                await bob("stream_add", stream="s", entries=[MEMBERS], **more)
            shown = (await ann("quarantine_release", stream="s"))["entries"]
            assert [entry["fields"] for entry in shown] == [MEMBERS] * 2
            assert shown[0]["encrypted"] == {"key": "k1", "bound_to": "s"}
            assert SECRET not in await stored(bus, companion_key("s", Kind.QUARANTINE))
            ids = [entry["id"] for entry in shown]
            await ann("quarantine_release", stream="s", action="release", entry_ids=ids, dry_run=False)
            read = (await ann("stream_read", stream="s"))["entries"]
            assert [(entry["fields"], entry["released"]["by"]) for entry in read] == [(MEMBERS, "ann")] * 2


@pytest.mark.parametrize("era", [HANDSHAKES[-1], MODERN])
async def test_both_ways_of_a_call_show_the_same(redis: Server, era: str) -> None:
    """Clear entries beside encrypted ones, large ones, one of a missing key, one that was changed."""
    async with encrypted(redis, "s are encrypted except kind", "h are encrypted with names") as bus:
        for stream in ("s", "h"):
            for members in (MEMBERS, {"kind": "large", "text": "x" * 300_000}, {"kind": "x"}):
                await call(bus, "stream_add", stream=stream, entries=[members])
            bus.encryption.reconfigure(ring(K1, K2, writing=K2), rules("* are encrypted"))
            await call(bus, "stream_add", stream=stream, entries=[MEMBERS])
            bus.encryption.reconfigure(ring(K1, K2, writing=K2), rules())
            await call(bus, "stream_add", stream=stream, entries=[MEMBERS])
            bus.encryption.reconfigure(ring(K1, writing=K1), rules("s are encrypted except kind"))
        (_, fields), *_ = redis.command("XRANGE", "s", "-", "+", "COUNT", "1")
        redis.command("XADD", "s", "*", *[b"evil" if field == b"me" else field for field in fields])
        surface = surface_over(bus)
        lines = [
            call_line(era, number, tool, arguments)
            for number, (tool, arguments) in enumerate(
                (tool, {**place, **arguments})
                for place in ({"stream": "s"}, {"stream": "h"})
                for tool, arguments in (
                    ("stream_read", {"count": 100}),
                    ("stream_read", {"direction": "backward"}),
                    ("stream_read", {"filter": {"kind": "x"}}),
                    ("stream_read", {"filter": {"token": "x"}}),
                    ("get_stream_messages", {"count": 10}),
                )
            )
        ]
        told = []
        for direct in (True, False):
            async with running_way(surface, direct=direct, revision=era) as way:
                told.append([json.loads(answer) for line in lines for answer in await way.talk(line)])
        assert told[0] == told[1]
        assert json.dumps(told).count("does not have") == json.dumps(told).count("'k2'") > 0
        assert "is not what was encrypted" in json.dumps(told)


async def test_no_plain_hash_of_what_is_encrypted_leaves_the_daemon(redis: Server) -> None:
    """Whoever sees it in a record or in a command could try out what was added."""
    settings = Settings(records=RecordsSettings(plain_hashes=True))
    async with running_bus(redis, settings, encryption=encryption("s are encrypted")) as bus:
        for stream in ("s", "clear"):
            again = {"stream": stream, "entries": [MEMBERS], "idempotency_key": "k"}
            assert not (await call(bus, "stream_add", **again))["duplicate"]
            assert (await call(bus, "stream_add", **again))["duplicate"]
        records = {key: redis.command("GET", key) for key in redis.command("KEYS", "*:rs:idem:*")}
        assert sorted(record.startswith(b"k1.") for record in records.values()) == [False, True]
        made = bus.idempotency.operands("s", "k", ME, None, [{"a": "b"}], is_secret=True)
        plain = bus.idempotency.operands("s", "k", ME, None, [{"a": "b"}])
        assert plain["plain_hash"] not in made.values()


async def test_large_entries_are_opened_in_parts(redis: Server) -> None:
    """Also where a plan goes on for another reason already: there is no connection yet, or the take waits."""
    async with encrypted(redis, IN_PLACE) as bus:
        large = {"text": "x" * 2_000_000}
        await call(bus, "stream_add", stream="s", entries=[large, MEMBERS, large])
        async with encrypted(redis, IN_PLACE) as other:
            other.encryption.reconfigure(ring(K1, writing=K1), rules(IN_PLACE))
            for count in (1, 3):
                page = await bus.reader.read("s", count=count)
                assert decode(page.entries[0].fields).members == large
            messages = await texts(other, "get_stream_messages", stream="s", count=3)
            assert [message["message"] for message in messages] == [large, MEMBERS, large][: len(messages)]
            waited = await call(other, "stream_wait", streams=["s"], cursor="0-0", timeout_seconds=20)
            assert waited["entries"][0]["fields"]["text"]["cut"]["bytes"] == 2_000_000
            take = {"stream": "q", "group": "g", "consumer": "c", "start": "earliest", "timeout_seconds": 20}
            ask = {"stream": "r", "entry": {}, "correlation_id": "c", "reply_to": "q", "timeout_seconds": 20}
            told: dict[str, dict[str, Any]] = {}
            async with trio.open_nursery() as nursery:

                async def wait(tool: str, arguments: dict[str, Any]) -> None:
                    told[tool] = await call(other, tool, **arguments)

                nursery.start_soon(wait, "work_take", take)
                nursery.start_soon(wait, "request_reply", ask)
                await asleep(other, 2)
                await call(bus, "stream_add", stream="q", entries=[large], correlation_id="c")
            for found in (told["work_take"]["entries"][0], told["request_reply"]["reply"]):
                assert found["fields"]["text"]["cut"]["bytes"] == 2_000_000


async def test_opening_a_page_holds_the_loop_for_a_few_milliseconds_at_most(redis: Server) -> None:
    async with encrypted(redis, IN_PLACE) as bus:
        entry = encode({"text": "x" * 1_000_000}, Stamp())
        fields = {name.decode(): value.decode() for name, value in entry}
        rule = bus.encryption.rule_for("s")
        assert rule is not None
        (sealed,) = bus.encryption.seal_all("s", rule, [fields])
        page = [RawEntry("1-1", list(chain.from_iterable(sealed.items())))] * 40
        began = time.thread_time()
        opened = [bus.encryption.open_entry("s", each) for each in page]
        together = time.thread_time() - began
        steps = LongestStep()
        trio.lowlevel.add_instrument(steps)
        try:
            assert await bus.encryption.open_entries("s", page) == opened
        finally:
            trio.lowlevel.remove_instrument(steps)
        # All at once is 40 times as long as one, which is opened in two halves.
        with measured:
            assert steps.seconds < together / 15
