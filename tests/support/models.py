"""A language model that follows a script, for real agents to talk to: an HTTP server on loopback.

Agents are given its address in place of their vendor's and as their proxy, so whatever else they would
fetch arrives here, too, is refused, and can be asserted to be nothing.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

#: A tool's name and arguments.
Call = tuple[str, Mapping[str, Any]]
Event = dict[str, Any]

#: What it says once its script is over.
FINAL = "That was all."


@attrs.define
class Model:
    """A running scripted model.

    Attributes:
        url: Its address, without a path.
        script: The calls it asks for.
        at_once: How many of them in one turn.
        before: Called before each turn with the number of calls that have been answered.
        prompts: What it was asked, as decoded JSON, the latest last.
        strays: Requests that are none of a model's business, as "METHOD path".
    """

    url: str
    script: Sequence[Call] = ()
    at_once: int = 1
    before: Callable[[int], None] | None = None
    prompts: list[dict[str, Any]] = attrs.field(factory=list)
    strays: list[str] = attrs.field(factory=list)

    def play(self, *script: Call, at_once: int = 1, before: Callable[[int], None] | None = None) -> None:
        """Begin a new script and forget what was asked before."""
        self.script, self.at_once, self.before = script, at_once, before
        self.prompts.clear()

    @property
    def outcomes(self) -> list[tuple[str, bool]]:
        """The text of each call's result as the model was given it, and whether it was marked as failed."""
        return _outcomes(self.prompts[-1])


@contextlib.contextmanager
def scripted_model() -> Iterator[Model]:
    """Run a model for the block that speaks Anthropic's Messages and OpenAI's Responses."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            if path not in _EVENTS:
                self.refuse()
                return
            prompt = json.loads(body)
            model.prompts.append(prompt)
            step = len(_outcomes(prompt))
            if model.before is not None:
                model.before(step)
            calls = model.script[step : step + model.at_once]
            events = _EVENTS[path]([(f"call_{step + n}", call) for n, call in enumerate(calls)])
            data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data.encode("ascii"))

        def refuse(self) -> None:
            model.strays.append(f"{self.command} {self.path}")
            self.send_error(502)

        do_GET = do_HEAD = do_CONNECT = refuse  # noqa: N815 - the names that the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        model = Model(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield model
        finally:
            server.shutdown()
            thread.join()


def _outcomes(prompt: Mapping[str, Any]) -> list[tuple[str, bool]]:
    if "input" in prompt:
        return [(item["output"], False) for item in prompt["input"] if item["type"] == "function_call_output"]
    return [
        (block["content"], block.get("is_error", False))
        for message in prompt["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]


def _messages(calls: Sequence[tuple[str, Call]]) -> list[Event]:
    """One turn by https://docs.claude.com/en/api/messages-streaming."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    blocks: list[tuple[Event, Event]] = [
        (
            {"type": "tool_use", "id": call_id, "name": name, "input": {}},
            {"type": "input_json_delta", "partial_json": json.dumps(arguments)},
        )
        for call_id, (name, arguments) in calls
    ]
    if not blocks:
        blocks = [({"type": "text", "text": ""}, {"type": "text_delta", "text": FINAL})]
    message = {"id": "msg", "type": "message", "role": "assistant", "model": "scripted", "content": []}
    reason = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    events: list[Event] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}
    ]
    for index, (block, delta) in enumerate(blocks):
        events += [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    return [*events, {"type": "message_delta", "delta": reason, "usage": usage}, {"type": "message_stop"}]


def _responses(calls: Sequence[tuple[str, Call]]) -> list[Event]:
    """One turn by https://platform.openai.com/docs/api-reference/responses-streaming."""
    items: list[Event] = []
    for call_id, (tool, arguments) in calls:
        namespace, _, name = tool.rpartition("__")
        item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": json.dumps(arguments)}
        items.append(item | ({"namespace": namespace} if namespace else {}))
    if not items:
        content = [{"type": "output_text", "text": FINAL}]
        items = [{"type": "message", "role": "assistant", "id": "msg", "content": content}]
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    return [
        {"type": "response.created", "response": {"id": "response"}},
        *({"type": "response.output_item.done", "item": item} for item in items),
        {"type": "response.completed", "response": {"id": "response", "usage": usage}},
    ]


_EVENTS = {"/v1/messages": _messages, "/v1/responses": _responses}
