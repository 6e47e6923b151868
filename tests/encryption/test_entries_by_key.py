"""stream_health counts the newest and the oldest entries of a stream by the keys that they need."""

from __future__ import annotations

import secrets

from redstreamd.encryption.encryption_rules import EncryptionRule, EncryptionRules
from redstreamd.encryption.key_ring import Key, KeyRing
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.names import judged_by
from tests.support.buses import running_bus
from tests.support.calls import call
from tests.support.servers import Server

KEYS = {key_id: Key(key_id, secrets.token_bytes(32)) for key_id in ("a", "b")}
RULES = EncryptionRules([EncryptionRule(("s*",))], judged_by)


def use(bus: Bus, *keys: str, writing: str | None = None, rules: EncryptionRules = RULES) -> None:
    ring = KeyRing({key: KEYS[key] for key in keys}, None if writing is None else KEYS[writing])
    bus.encryption.reconfigure(ring, rules)


async def add(bus: Bus, count: int, text: str = "x") -> None:
    await call(bus, "stream_add", stream="s", entries=[{"text": text}] * count)


async def test_entries_are_counted_by_key_at_both_ends_and_missing_keys_are_found(redis: Server) -> None:
    async with running_bus(redis, encryption=Encryption()) as bus:
        await add(bus, 2)
        # Where nothing is encrypted, nothing is said.
        assert "encrypted" not in (await call(bus, "stream_health", stream="s"))["stream"]
        use(bus, "a", "b", writing="a")
        assert (await call(bus, "stream_health", stream="s"))["stream"]["encrypted"] == {
            "newest": {"entries": 2, "clear": 2, "keys": {}}
        }
        await add(bus, 90)
        use(bus, "a", "b", writing="b")
        await add(bus, 60)
        found = await call(bus, "stream_health", stream="s")
        assert found["stream"]["encrypted"] == {
            "newest": {"entries": 100, "clear": 0, "keys": {"a": 40, "b": 60}},
            "oldest": {"entries": 100, "clear": 2, "keys": {"a": 90, "b": 8}},
        }
        assert "keys_missing" not in [one["code"] for one in found["findings"]]
        use(bus, "b", writing="b", rules=EncryptionRules([], judged_by))
        found = await call(bus, "stream_health", stream="s")
        (missing,) = (one for one in found["findings"] if one["code"] == "keys_missing")
        assert (missing["severity"], missing["evidence"]) == ("warning", {"keys": ["a"]})


async def test_large_entries_are_counted_as_far_as_they_are_few(redis: Server) -> None:
    async with running_bus(redis, encryption=Encryption()) as bus:
        use(bus, "a", writing="a")
        await add(bus, 4, "x" * 40_000)
        # A field that lies is the entry of no key.
        redis.command("XADD", "s", "*", "_rs.enc", "lie", "text", "x")
        counted = (await call(bus, "stream_health", stream="s"))["stream"]["encrypted"]
        assert counted["newest"]["keys"]["?"] == 1
        assert counted["newest"]["entries"] < 4
        assert counted["oldest"]["keys"] == {"a": counted["oldest"]["entries"]}
