"""Makes lines of JSON-RPC: requests as clients send them, and what becomes of them by mutation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from tests.fuzz.mutations import TEXTS, as_json, damaged, mutated, value
from tests.support.mcp_client import HANDSHAKE, EraName, enveloped

#: Names of streams; few, so that calls meet.
STREAMS: Final = ("fuzz:a:one", "fuzz:b:two", "fuzz:{c}:three", "a\u202eb", "%41/..")
_METHODS: Final = (
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "prompts/list",
    "logging/setLevel",
    "notifications/initialized",
    "notifications/progress",
    "notifications/roots/list_changed",
    "sampling/createMessage",
    "tools/call",
    "no/such",
)


@attrs.define
class Lines:
    """Makes the lines of one connection.

    Attributes:
        rng: The source of all of them.
        era: Whether requests carry the modern envelope.
        tools: The tools as ``tools/list`` has them.
    """

    rng: random.Random
    era: EraName
    tools: Sequence[Mapping[str, Any]]

    def line(self) -> bytes:
        """Return one line, or what is meant to be one, with its end."""
        rng = self.rng
        match rng.randrange(20):
            case 0:
                data = as_json(rng, value(rng))
            case 1:
                data = as_json(rng, [self._message() for _ in range(rng.randrange(4))])
            case 2:
                data = rng.randbytes(rng.choice((1, 10, 200)))
            case 3 if rng.random() < 0.05:
                # Beyond the limit of a message, or of its values.
                data = rng.choice((b'{"a":"' + b"x" * 9_000_000, b"[" + b"0," * 60_000, b"[" * 100_000))
            case _:
                message = self._message()
                if rng.random() < 0.6:
                    message = mutated(rng, message)
                data = as_json(rng, message)
                if rng.random() < 0.3:
                    data = damaged(rng, data)
        return data + rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n"))

    def _message(self) -> dict[str, Any]:
        rng = self.rng
        method, params = self._method()
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if not method.startswith("notifications/"):
            message["id"] = rng.choice((rng.randrange(1_000), str(rng.randrange(1_000)), rng.choice(TEXTS)))
        if params is not None:
            message["params"] = enveloped(params) if self.era == "modern" else params
        return message

    def _method(self) -> tuple[str, dict[str, Any] | None]:
        rng = self.rng
        match rng.randrange(12):
            case 0:
                return rng.choice(_METHODS), rng.choice((None, {}, HANDSHAKE, {"cursor": rng.choice(TEXTS)}))
            case 1:
                return "resources/read", {"uri": self._uri()}
            case 2:
                if self.era == "modern":
                    wanted = {"resourceSubscriptions": [self._uri()], "toolsListChanged": True}
                    return "subscriptions/listen", {"notifications": wanted}
                return rng.choice(("resources/subscribe", "resources/unsubscribe")), {"uri": self._uri()}
            case 3:
                given = {"stream": rng.choice(STREAMS), "group": "g", "consumer": "c", "purpose": "x"}
                return "prompts/get", {"name": rng.choice(_PROMPTS), "arguments": given}
            case 4:
                reference = rng.choice(
                    (
                        {"type": "ref/prompt", "name": rng.choice(_PROMPTS)},
                        {"type": "ref/resource", "uri": "redstream://streams/{stream}"},
                    )
                )
                argument = {
                    "name": rng.choice(("stream", "group", "entry_id")),
                    "value": rng.choice(("", "f", "1")),
                }
                return "completion/complete", {"ref": reference, "argument": argument}
            case 5:
                return "notifications/cancelled", {"requestId": rng.randrange(1_000)}
        tool = rng.choice(self.tools)
        arguments = {
            name: self._argument(name, schema)
            for name, schema in tool["inputSchema"]["properties"].items()
            if name in tool["inputSchema"].get("required", ()) or rng.random() < 0.4
        }
        params: dict[str, Any] = {"name": tool["name"], "arguments": arguments}
        if rng.random() < 0.1:
            params["_meta"] = {"progressToken": rng.choice((1, "t"))}
        return "tools/call", params

    def _uri(self) -> str:
        rng = self.rng
        stream = rng.choice(("fuzz:a:one", "a%E2%80%AEb", "%ff", "%", ""))
        rest = rng.choice(("", "/groups/g", "/entries/1-1", "/entries/1-1/fields/f", "/x"))
        return rng.choice(
            (f"redstream://streams/{stream}{rest}", "redstream://streams", "redstream://health", "x:y")
        )

    def _argument(self, name: str, schema: Mapping[str, Any]) -> Any:
        """Return a value that the schema allows, as far as it says so."""
        rng = self.rng
        if "enum" in schema:
            return rng.choice(schema["enum"])
        match name:
            case "stream" | "target" | "reply_to":
                return rng.choice(STREAMS)
            case "streams":
                return rng.sample(STREAMS, 2)
            case "timeout_seconds":
                return rng.choice((0, 0.01, 0.1))
            case "entries":
                return [self._entry() for _ in range(rng.randrange(1, 4))]
        match schema.get("type"):
            case "string":
                return rng.choice(("g", "c", "k", "0", "1-1", *TEXTS))
            case "integer":
                return rng.choice((schema.get("minimum", 0), 1, 10))
            case "number":
                return rng.choice((schema.get("minimum", 0), 1, 2.5))
            case "boolean":
                return rng.random() < 0.5
            case "array":
                return [self._argument("", schema.get("items", {})) for _ in range(rng.randrange(3))]
            case "object":
                return self._entry()
        return value(rng)

    def _entry(self) -> dict[str, Any]:
        rng = self.rng
        return {rng.choice(("f", "type", *TEXTS)): value(rng) for _ in range(rng.randrange(1, 4))}


_PROMPTS: Final = (
    "diagnose-connection",
    "diagnose-stream",
    "diagnose-group",
    "drain-a-queue",
    "design-stream",
)
