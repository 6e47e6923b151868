"""Records the conversations that later versions are held to; see `tests.compat.transcripts`.

Run it where the interface changes on purpose, and say in the commit what clients have to do about it:

    .venv/bin/python -m tests.compat.record
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import attrs
import trio

from tests.compat import transcripts
from tests.compat.compare import Bound, differences, filled
from tests.compat.transcripts import Conversation, Normaliser, Step
from tests.support.daemon import HASTY, Daemon, running_daemon
from tests.support.mcp_client import ENVELOPE, HANDSHAKE, EraName, raw_client
from tests.support.servers import Server, start_redis

ERAS: tuple[EraName, ...] = ("handshake", "modern")

ORDERS, TASKS, ASKED, OLD = "shop:orders:paid", "shop:tasks:open", "shop:questions:asked", "shop:original:one"
GROUP = {"stream": TASKS, "group": "workers"}
Line = dict[str, Any] | list[Any] | str


@attrs.define
class Turn:
    """A step to record: what is sent, and how much comes of it."""

    note: str
    lines: tuple[Line, ...]
    answers: int = 1
    notifications: int = 0


@contextlib.contextmanager
def served(server: Server) -> Iterator[Daemon]:
    """Run the daemon that is spoken to: with all tools, and progress reported soon."""
    with running_daemon(server, program=HASTY, REDSTREAMD_TOOLS_PROFILE="operator,red-stream") as daemon:
        yield daemon


class Script:
    """What is said in one era."""

    def __init__(self, era: EraName) -> None:
        self.modern = era == "modern"

    def request(self, request_id: str, method: str, /, **params: Any) -> dict[str, Any]:
        """Build a request."""
        if self.modern:
            params["_meta"] = ENVELOPE | params.get("_meta", {})
        message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        return message | {"params": params} if params else message

    def tool(self, request_id: str, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Build a call of a tool."""
        return self.request(request_id, "tools/call", name=name, arguments=arguments)

    def calls(self, *calls: tuple[str, dict[str, Any]]) -> Iterator[Turn]:
        """Call tools, one after the other."""
        for number, (tool, arguments) in enumerate(calls, 1):
            yield Turn(f"{tool} {number}", (self.tool(f"{tool} {number}", tool, **arguments),))

    def turns(self) -> Iterator[Turn]:
        """Say all of it."""
        yield from self.beginning()
        yield from self.lists()
        yield from self.observing()
        yield from self.working()
        yield from self.asking()
        yield from self.administering()
        yield from self.original()
        yield from self.refused()
        yield from self.malformed()
        yield from self.resources()
        yield from self.waiting()
        # Nothing else is left to come.
        yield Turn("the end", (self.nothing("end"),))

    def beginning(self) -> Iterator[Turn]:
        """Introduce each other."""
        if self.modern:
            yield Turn("discover", (self.request("discover", "server/discover"),))
            unknown = self.request("version", "tools/list")
            unknown["params"]["_meta"] = ENVELOPE | {"io.modelcontextprotocol/protocolVersion": "2099-01-01"}
            yield Turn("a revision that is not spoken", (unknown,))
        else:
            yield Turn("a request before the handshake", (self.request("early", "tools/list"),))
            initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            yield Turn("initialize", (self.request("initialize", "initialize", **HANDSHAKE),))
            yield Turn("initialized", (initialized,), answers=0)
        yield Turn("ping", (self.request("ping", "ping"),))
        yield Turn("health", (self.request("health", "resources/read", uri="redstream://health"),))

    def lists(self) -> Iterator[Turn]:
        """List what is served."""
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
            yield Turn(method, (self.request(method, method),))
        yield Turn("a cursor of nobody", (self.request("cursor", "tools/list", cursor="no cursor"),))

    def observing(self) -> Iterator[Turn]:
        """Add and read."""
        add = {"stream": ORDERS, "entries": [{"order": 1, "paid": True}, {"order": 2}, {"order": 3}]}
        yield from self.calls(
            ("stream_add", add | {"idempotency_key": "k-1"}),
            ("stream_add", add | {"idempotency_key": "k-1"}),
            ("stream_add", {"stream": ORDERS, "entries": [{}], "max_length": 1000, "durability": "memory"}),
            ("stream_list", {"pattern": "shop:*"}),
            ("stream_read", {"stream": ORDERS, "count": 2}),
            ("stream_read", {"stream": ORDERS, "cursor": "<cursor 2>"}),
            ("stream_read", {"stream": ORDERS, "direction": "backward", "count": 1}),
            ("stream_read", {"stream": ORDERS, "filter": {"order": 2}}),
            ("stream_wait", {"streams": [ORDERS, "shop:orders:none"], "timeout_seconds": 0}),
            ("stream_health", {"stream": ORDERS}),
            ("stream_health", {"stream": ORDERS, "detail": "full"}),
        )

    def working(self) -> Iterator[Turn]:
        """Take and finish work."""
        lease = {"lease": "<lease 1>"}
        replay = GROUP | {"action": "replay"}
        yield from self.calls(
            ("stream_add", {"stream": TASKS, "entries": [{"task": n} for n in range(5)]}),
            ("group_create", GROUP),
            ("group_create", GROUP),
            ("work_take", GROUP | {"consumer": "a", "count": 3, "lease_seconds": 60, "idempotency_key": "t"}),
            ("work_take", GROUP | {"consumer": "a", "count": 3, "lease_seconds": 60, "idempotency_key": "t"}),
            ("work_extend", lease | {"lease_seconds": 120}),
            ("pending_list", GROUP),
            ("work_done", lease | {"entry_ids": ["<id 5>"]}),
            ("work_done", lease | {"entry_ids": ["<id 5>"]}),
            ("work_fail", lease | {"entry_ids": ["<id 6>"], "delay_seconds": 600, "reason": "later"}),
            ("work_fail", lease | {"entry_ids": ["<id 7>"], "action": "dead_letter", "reason": "no"}),
            ("dead_letter_replay", GROUP),
            ("dead_letter_replay", replay),
            ("dead_letter_replay", replay | {"dry_run": False}),
            ("work_take", GROUP | {"consumer": "b", "count": 1, "lease_seconds": 60}),
            ("work_take", GROUP | {"consumer": "b", "resume": True, "lease_seconds": 60}),
            ("work_done", {"lease": "<lease 2>"}),
            ("work_done", {"lease": "<lease 3>", "delete": True}),
            ("stream_health", {"stream": TASKS, "group": "workers"}),
        )

    def asking(self) -> Iterator[Turn]:
        """Ask and answer."""
        ask = {"stream": ASKED, "entry": {"q": "?"}, "correlation_id": "c-1", "timeout_seconds": 0}
        take = {"stream": ASKED, "group": "workers", "consumer": "a", "lease_seconds": 60}
        yield from self.calls(
            ("request_reply", ask),
            ("work_take", take),
            ("work_done", {"lease": "<lease 4>", "reply": {"a": "!"}}),
            ("work_done", {"lease": "<lease 4>", "reply": {"a": "!"}}),
            ("request_reply", ask),
        )

    def administering(self) -> Iterator[Turn]:
        """Manage groups and streams."""
        remove = GROUP | {"action": "remove_consumer", "consumer": "a", "pending": "release"}
        yield from self.calls(
            ("group_manage", GROUP | {"action": "set_position", "start": "earliest"}),
            ("group_manage", remove),
            ("group_manage", remove | {"dry_run": False}),
            ("group_manage", GROUP | {"action": "destroy"}),
            ("stream_manage", {"stream": TASKS, "action": "trim", "max_length": 1}),
            ("stream_manage", {"stream": ORDERS, "action": "delete_entries", "entry_ids": ["<id 1>"]}),
            ("stream_manage", {"stream": ORDERS, "action": "trim", "max_length": 3, "dry_run": False}),
            ("stream_manage", {"stream": ASKED, "action": "delete", "force": True, "dry_run": False}),
            ("quarantine_release", {}),
        )

    def original(self) -> Iterator[Turn]:
        """Call the six tools of the original server."""
        yield from self.calls(
            ("add_stream_message", {"stream": OLD, "message": {"a": 1}}),
            ("list_streams", {"pattern": "shop:original:*"}),
            ("get_stream_messages", {"stream": OLD, "count": 5}),
            ("create_consumer_group", {"stream": OLD, "group": "g", "start": "0"}),
            ("list_groups", {"stream": OLD}),
            ("read_group", {"stream": OLD, "group": "g", "consumer": "c"}),
        )

    def refused(self) -> Iterator[Turn]:
        """Ask what cannot be done."""
        yield from self.calls(
            ("no_such_tool", {}),
            ("stream_add", {"stream": ORDERS}),
            ("stream_add", {"stream": ORDERS, "entries": []}),
            ("stream_add", {"stream": ORDERS, "entries": [{"a": 1}], "entry": {}}),
            ("stream_read", {"stream": ORDERS, "count": "many"}),
            ("stream_read", {"stream": ORDERS, "count": 100_000}),
            ("stream_read", {"stream": "shop:nothing:here"}),
            ("stream_read", {"stream": ORDERS, "start": "yesterday"}),
            ("stream_read", {"stream": ""}),
            ("pending_list", GROUP | {"group": "nobody"}),
            ("stream_add", {"stream": ORDERS, "entries": [{"other": 1}], "idempotency_key": "k-1"}),
            ("work_done", {"lease": "lease2.not-one-of-ours-at-all"}),
            ("work_done", {"lease": "<lease 1>", "entry_ids": ["1-1"]}),
        )

    def malformed(self) -> Iterator[Turn]:
        """Send what is no request, or none that can be served."""
        yield Turn("an unknown method", (self.request("unknown", "no/such/method"),))
        yield Turn("bad JSON", ("{no json",))
        yield Turn("no object", ('"text"',))
        yield Turn("a batch", ([self.request("in a batch", "tools/list")],))
        yield Turn("an id that is none", (self.request("x", "tools/list") | {"id": 1.5},))
        yield Turn("parameters that are none", (self.request("params", "tools/list") | {"params": 5},))
        wait = self.tool("twice", "stream_wait", streams=["shop:never:one"], timeout_seconds=60)
        yield Turn("an id that is in flight", (wait, wait))
        yield Turn("its cancellation, and another request", (self.cancel("twice"), self.nothing("a")))
        yield Turn("a cancellation of what is not there", (self.cancel("b"), self.nothing("b")))

    def nothing(self, request_id: str) -> dict[str, Any]:
        """Build a request with a short answer."""
        return self.tool(request_id, "stream_list", pattern="nothing:*")

    def cancel(self, request_id: str) -> dict[str, Any]:
        """Build a cancellation."""
        params = {"requestId": request_id}
        return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}

    def resources(self) -> Iterator[Turn]:
        """Read resources, get prompts, complete names."""
        stream, tasks = "redstream://streams/shop%3Aorders%3Apaid", "redstream://streams/shop%3Atasks%3Aopen"
        reads = (
            "redstream://streams",
            stream,
            f"{stream}/entries/<id 2>",
            f"{stream}/entries/<id 2>/fields/order",
            f"{tasks}/groups/workers",
            "redstream://streams/shop%3Anothing%3Ahere",
            "redstream://nothing",
        )
        for uri in reads:
            yield Turn(f"read {uri}", (self.request(uri.replace("<id 2>", "2"), "resources/read", uri=uri),))
        prompts: tuple[tuple[str, dict[str, str]], ...] = (
            ("design-stream", {"purpose": "orders"}),
            ("diagnose-stream", {"stream": ORDERS}),
            ("diagnose-group", GROUP),
            ("drain-a-queue", GROUP | {"consumer": "a"}),
            ("diagnose-stream", {}),
            ("no-such-prompt", {}),
        )
        for number, (name, arguments) in enumerate(prompts):
            request = self.request(f"{name} {number}", "prompts/get", name=name, arguments=arguments)
            yield Turn(f"prompt {name}", (request,))
        template = {"type": "ref/resource", "uri": "redstream://streams/{stream}"}
        prompt = {"type": "ref/prompt", "name": "diagnose-group"}
        argument = {"name": "stream", "value": "shop:o"}
        for number, ref in enumerate((template, prompt)):
            request = self.request(f"complete {number}", "completion/complete", ref=ref, argument=argument)
            yield Turn(f"complete {ref['type']}", (request,))
        add = self.tool("told", "stream_add", stream=ORDERS, entries=[{"order": 9}])
        if self.modern:
            wanted = {"resourceSubscriptions": [stream]}
            listen = self.request("listen", "subscriptions/listen", notifications=wanted)
            yield Turn("listen", (listen,), answers=0, notifications=1)
            yield Turn("an update", (add,), notifications=1)
            yield Turn("its end", (self.cancel("listen"), self.nothing("c")))
        else:
            yield Turn("subscribe", (self.request("subscribe", "resources/subscribe", uri=stream),))
            yield Turn("an update", (add,), notifications=1)
            yield Turn("unsubscribe", (self.request("unsubscribe", "resources/unsubscribe", uri=stream),))

    def waiting(self) -> Iterator[Turn]:
        """Wait with progress, and be woken."""
        arguments = {"streams": [TASKS], "timeout_seconds": 60}
        meta = {"progressToken": "p"}
        wait = self.request("wait", "tools/call", name="stream_wait", arguments=arguments, _meta=meta)
        yield Turn("a wait that reports progress", (wait,), answers=0, notifications=1)
        add = self.tool("wake", "stream_add", stream=TASKS, entries=[{"task": 9}])
        yield Turn("its end", (add,), answers=2)


async def record(path: str, era: EraName) -> list[Step]:
    """Have the conversation of an era and return it as steps."""
    normalise, bound = Normaliser(), Bound()
    steps: list[Step] = []
    async with raw_client(path) as raw:
        conversation = Conversation(raw)
        for turn in Script(era).turns():
            lines = [line if isinstance(line, str) else json.dumps(line) for line in turn.lines]
            received = await conversation.exchange(
                [filled(line, bound) for line in lines],
                answers=turn.answers,
                notifications=turn.notifications,
            )
            step = Step(turn.note, lines, [normalise(message) for message in received])
            told = sum("method" in message for message in received)
            if (len(received) - told, told) != (turn.answers, turn.notifications):
                raise RuntimeError(f"{turn.note}: not all came, or the connection ended: {received}")
            for message, other in zip(step.received, received, strict=True):
                if found := differences(message, other, bound):
                    raise RuntimeError(f"{turn.note}: {found}")
            steps.append(step)
    return steps


def main() -> None:
    """Record both eras."""
    with start_redis() as server, served(server) as daemon:
        for era in ERAS:
            server.flush()
            transcripts.write(era, trio.run(record, daemon.path, era))


if __name__ == "__main__":
    main()
