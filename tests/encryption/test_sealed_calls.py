"""Encryption in every way that content takes: what Redis holds, what callers get, and who cannot read it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from redstreamd.encryption.encryption_rules import EncryptionRule, EncryptionRules
from redstreamd.encryption.key_ring import Key, KeyRing
from redstreamd.presentation.views import Views
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_ids import join_cursor
from redstreamd.streams.names import Kind, companion_key, judged_by
from tests.support.buses import running_bus
from tests.support.calls import call, refusal, texts
from tests.support.servers import Server

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
