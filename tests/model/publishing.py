"""Rules that add entries."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.calling import Calling
from tests.model.choices import COUNTS, KEYS, MEMBERS, STREAMS


class Publishing(Calling):
    """stream_add and add_stream_message."""

    @rule(name=STREAMS, count=COUNTS, members=MEMBERS, key=st.none() | KEYS)
    def add(self, name: str, count: int, members: dict[str, Any], key: str | None) -> None:
        # A key counts for nothing while its stream is gone.
        known = self.world.keys.get((name, key or "")) if name in self.world.streams else None
        same = known is not None and known[0] == (count, members)
        entries = [members | {"at": n} for n in range(count)]
        added = self.expect(
            None if known is None or same else "INVALID_ARGUMENT",
            "stream_add",
            stream=name,
            entries=entries,
            **({} if key is None else {"idempotency_key": key}),
        )
        if added is None:
            return
        assert added["duplicate"] is same
        if known is not None:
            assert added["ids"] == known[1]
            return
        if key is not None:
            self.world.keys[name, key] = ((count, members), added["ids"])
        for entry_id, entry in zip(added["ids"], entries, strict=True):
            self.world.made(name).add(entry_id, entry)

    @rule(name=STREAMS, members=MEMBERS, most=st.integers(1, 8))
    def add_and_trim(self, name: str, members: dict[str, Any], most: int) -> None:
        added = self.call("stream_add", stream=name, entries=[members], max_length=most)
        stream = self.world.made(name)
        stream.add(added["ids"][0], members)
        holding = stream.retain(most)
        assert added["kept_for"] in holding if holding else "kept_for" not in added

    @rule(name=STREAMS, members=MEMBERS)
    def add_stream_message(self, name: str, members: dict[str, Any]) -> None:
        entry_id = self.texts("add_stream_message", stream=name, message=members)["id"]
        self.world.made(name).add(entry_id, members)
