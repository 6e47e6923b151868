"""Two listeners of a real daemon are two principals, and what one makes does not exist for the other."""

from __future__ import annotations

from typing import Any

from tests.daemon.test_rates import Client, two_sockets
from tests.support.servers import Server


def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Make a call and return its structured answer."""
    client.send(tool, **arguments)
    (answer,) = client.answers(1)
    return answer


def test_a_client_of_one_listener_cannot_use_what_a_client_of_another_made(redis: Server) -> None:
    group = {"stream": "a:b:c", "group": "g", "consumer": "worker"}
    with two_sockets(redis) as (unix, tcp):
        added = {"stream": "a:b:c", "entries": [{"n": 1}], "idempotency_key": "k"}
        (mine,) = ask(unix, "stream_add", **added)["ids"]
        held = ask(unix, "work_take", **group)
        asked = ask(unix, "request_reply", stream="a:b:q", entry={"q": 1}, timeout_seconds=0)
        # Of the other.
        (other,) = ask(tcp, "stream_add", **added)["ids"]
        assert other != mine
        assert ask(tcp, "work_take", **group, resume=True)["entries"] == []
        forged = ask(tcp, "stream_add", stream=asked["reply_to"], entries=[{"forged": 1}], max_length=1)
        assert forged["code"] == "STREAM_NOT_FOUND"
        assert ask(tcp, "work_done", lease=held["lease"])["code"] == "INVALID_ARGUMENT"
        # A worker of the other principal answers nevertheless, by its own lease.
        work = ask(tcp, "work_take", stream="a:b:q", group="g", consumer="worker")
        assert ask(tcp, "work_done", lease=work["lease"], reply={"a": 1})["done"] == [asked["request_id"]]
        late = asked["next_call"]
        (reply,) = ask(unix, late["tool"], **late["arguments"])["entries"]
        assert (reply["fields"], reply["sender"]) == ({"a": 1}, "tcp")
        assert ask(unix, "stream_add", **added)["ids"] == [mine]
        assert ask(unix, "work_done", lease=held["lease"])["done"] == [mine]
