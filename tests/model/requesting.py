"""Rules that ask over a stream and answer."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.choices import CONSUMERS, GROUPS, LEASES, STREAMS
from tests.model.working import Working
from tests.model.world import Lease, order


class Requesting(Working):
    """request_reply, and work_done with a reply."""

    @rule(name=STREAMS, correlation=st.sampled_from(["q1", "q2"]))
    def ask(self, name: str, correlation: str) -> None:
        # The same correlation ID on another stream is another question.
        correlation = f"{correlation}@{name}"
        told = self.call(
            "request_reply",
            stream=name,
            entry={"question": correlation},
            correlation_id=correlation,
            timeout_seconds=0,
        )
        known = correlation in self.world.asked and name in self.world.streams
        if not known:
            self.world.replied.discard(correlation)
        assert (told.get("resumed", False), told["answered"]) == (known, correlation in self.world.replied)
        if known:
            assert told["request_id"] == self.world.asked[correlation][1]
        else:
            self.world.asked[correlation] = (name, told["request_id"])
            self.world.made(name).add(told["request_id"], {"question": correlation})

    @rule(lease=LEASES)
    def reply(self, lease: Lease) -> None:
        self.reply_to_one(lease)

    @rule(name=STREAMS, group=GROUPS, consumer=CONSUMERS)
    def take_and_reply(self, name: str, group: str, consumer: str) -> None:
        lease = self.take_some(name, group, consumer, 1)
        if lease is not None:
            self.reply_to_one(lease)

    def reply_to_one(self, lease: Lease) -> None:
        """Answer the first entry of a lease, which need not be a request."""
        name, group = lease.stream, lease.group
        entry_id = min(lease.attempts, key=order)
        code = self.world.missing(name, group)
        removed = code is None and lease.consumer not in self.consumers(name, group)
        one = attrs.evolve(lease, attempts={entry_id: lease.attempts[entry_id]})
        own, already, _ = self.world.fates(one, removed=removed)
        stream = self.world.streams.get(name)
        members = None if stream is None else stream.entries.get(entry_id)
        question = (members or {}).get("question")
        if members is not None and question is None:
            # Said before anybody asks whose the entry is.
            code = "INVALID_ARGUMENT"
        elif code is None and not own and not already:
            code = "LEASE_LOST"
        elif code is None and own and members is None:
            code = "INVALID_ARGUMENT"
        told = self.expect(
            code, "work_done", lease=lease.token, entry_ids=[entry_id], reply={"answer": entry_id}
        )
        if code == "INVALID_ARGUMENT" and own and members is None:
            # It was about to be answered, and stays under its lease.
            self.world.group(name, group).pending[entry_id].leased = True
        if code != "INVALID_ARGUMENT" or members is None:
            self.note_settled(one, own | already)
        if told is None:
            return
        assert (told["done"], told["already_done"]) == (sorted(own), sorted(already))
        for one in own:
            del self.world.group(name, group).pending[one]
        # What is settled is not answered any more, but it is told that it was.
        answer = (name, group, entry_id)
        assert ("reply" in told) is (question is not None and (bool(own) or answer in self.world.answered))
        if "reply" in told:
            assert question is not None
            self.world.answered.add(answer)
            self.world.replied.add(question)
            assert told["reply"].keys() >= {"stream", "duplicate"}
