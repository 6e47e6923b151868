"""The quarantine in both eras and on both ways of a call: what is submitted waits, and is nobody's stream."""

from __future__ import annotations

import json

from redstreamd.policy import Policy, Rule
from redstreamd.presentation.uris import stream_uri
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key, judged_by
from tests.mcp_server.test_ownership import ERAS, FOREIGN, WAYS, contents, two_clients
from tests.support.buses import ON_REDIS
from tests.support.servers import Server
from tests.support.two_ways import MODERN

QUARANTINE, NONE = companion_key("s", Kind.QUARANTINE), companion_key("none", Kind.QUARANTINE)
POLICY = Policy(
    [Rule.parse("ann may read publish consume manage on *"), Rule.parse("bob may read submit on *")],
    judged=judged_by,
)


@ON_REDIS
@ERAS
@WAYS
async def test_what_is_submitted_waits_whichever_way_it_came(
    bus: Bus, server: Server, direct: bool, revision: str
) -> None:
    async with two_clients(bus, direct=direct, revision=revision, policy=POLICY) as (ann, bob):
        await ann("stream_add", stream="s", entries=[{"n": 0}])
        waiting = []
        for arguments in ({}, {"idempotency_key": "k"}, {"correlation_id": "c"}):
            added = await bob("stream_add", stream="s", entries=[{"n": 1}], **arguments)
            assert added["ids"] == []
            waiting += added["waiting"]
        older = await bob.ask(
            "tools/call", name="add_stream_message", arguments={"stream": "s", "message": {}}
        )
        waiting.append(json.loads(older["result"]["content"][0]["text"])["id"])
        asked = await bob("request_reply", stream="s", entry={}, timeout_seconds=0)
        waiting.append(asked["request_id"])
        assert server.command("XLEN", "s") == 1
        shown = await ann("quarantine_release", stream="s")
        assert [entry["id"] for entry in shown["entries"]] == waiting
        await ann("quarantine_release", stream="s", action="release", entry_ids=waiting, dry_run=False)
        assert (server.command("XLEN", "s"), server.command("XLEN", QUARANTINE)) == (6, 0)


@ON_REDIS
@ERAS
@WAYS
async def test_nobody_reads_or_takes_from_a_quarantine_by_its_name(
    bus: Bus, server: Server, direct: bool, revision: str
) -> None:
    async with two_clients(bus, direct=direct, revision=revision, policy=POLICY) as (ann, bob):
        await ann("stream_add", stream="s", entries=[{"n": 0}])
        await bob("stream_add", stream="s", entries=[{"secret": 1}])
        before = contents(server)
        for case, arguments in FOREIGN.items():
            refused, absent = [await ann(case.split()[0], **arguments(key)) for key in (QUARANTINE, NONE)]
            assert refused["code"] in ("STREAM_NOT_FOUND", "INVALID_STREAM"), case
            assert json.dumps(refused) == json.dumps(absent).replace(NONE, QUARANTINE), case
        uri, none = stream_uri(QUARANTINE), stream_uri(NONE)
        for beneath in ("", "/groups/g", "/entries/0-1", "/entries/0-1/fields/secret"):
            answers = [await ann.ask("resources/read", uri=each + beneath) for each in (uri, none)]
            assert "Resource not found" in answers[0]["error"]["message"]
            told = json.dumps(answers[1]).replace(none, uri).replace(NONE, QUARANTINE)
            assert told == json.dumps(answers[0])
        prompt = await ann.ask("prompts/get", name="diagnose-stream", arguments={"stream": QUARANTINE})
        assert "STREAM_NOT_FOUND" in json.dumps(prompt)
        assert "secret" not in json.dumps(prompt)
        completed = await ann.ask(
            "completion/complete",
            ref={"type": "ref/resource", "uri": "redstream://streams/{stream}/entries/{entry_id}"},
            argument={"name": "entry_id", "value": ""},
            context={"arguments": {"stream": QUARANTINE}},
        )
        assert completed["result"]["completion"]["values"] == []
        listed = json.dumps(await ann.ask("resources/list")) + json.dumps(await ann("stream_list"))
        assert "quarantine" not in listed
        if revision != MODERN:
            assert "error" in await ann.ask("resources/subscribe", uri=uri)
        assert contents(server) == before
