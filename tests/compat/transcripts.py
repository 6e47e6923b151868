"""Conversations with the daemon, as text: what a client sent, line by line, and what came back.

A transcript is a list of steps. In its file a step is a comment, the lines that are sent (``> ``) and the
messages that come before the next step (``< ``), as JSON. What differs from run to run is a placeholder; see
`tests.compat.compare`. A request may hold numbered ones, which are replaced by what was answered before.

Messages are kept and compared as a client relies on them:

- Members that were answered are there, with their values; more may have come.
- Descriptions, titles, messages, causes and next steps are prose: there, and not empty, in any words.
- Of tools and prompts the names, and those of their arguments; of resources address, name and MIME type. The
  order does not matter, and there may be more. Tool schemas have snapshots of their own (tests/tools).
- Findings of stream_health are compared by code, and figures about the server as numbers of any size.
- JSON within text is compared as JSON.
- Answers to different requests may come in any order. A notification that says what one on the same
  connection said before is passed over, since it says "again", and so is list_changed, which a clock sends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.compat.compare import NUMBER, Bound, differences, filled
from tests.support.mcp_client import RawClient, raw_client

TRANSCRIPTS = Path(__file__).parent / "transcripts"
#: Seconds until what a step brings must have come.
PATIENCE = 120

_PROSE = {
    *("message", "cause", "next_step", "description", "title", "instructions", "note", "warning"),
    "lag_is_an_estimate_because",
}
#: Members that say how a server does: figures, versions, paths.
_FIGURES = {"process", "clients", "redis", "waiting", "subscriptions", "evidence", "server", "redstreamd"}
_OPAQUE = {"next_cursor": "cursor", "cursor": "cursor", "lease": "lease", "correlation_id": "hex"}
_PASSED_OVER = {"notifications/resources/list_changed"}


@attrs.define
class Step:
    """What is sent at once, and what comes of it.

    Attributes:
        note: What it is about.
        sent: Lines, which may hold numbered placeholders.
        received: Messages in the order in which they came, as `relied_upon` and `Normaliser` leave them.
    """

    note: str
    sent: list[str]
    received: list[Any]


def relied_upon(message: dict[str, Any]) -> dict[str, Any]:
    """Return what of a message is compared."""
    message = _unfolded(message)
    result = message.get("result")
    if isinstance(result, dict):
        for name, reduced in _LISTS.items():
            if isinstance(result.get(name), list):
                result[name] = dict(map(reduced, result[name]))
    return message


_LISTS = {
    "tools": lambda tool: (tool["name"], {name: {} for name in tool["inputSchema"]["properties"]}),
    "prompts": lambda prompt: (
        prompt["name"],
        {argument["name"]: {"required": argument["required"]} for argument in prompt["arguments"]},
    ),
    "resources": lambda resource: (resource["uri"], _some(resource, "name", "mimeType")),
    "resourceTemplates": lambda template: (template["uriTemplate"], _some(template, "name", "mimeType")),
}


def _some(members: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: members[name] for name in names if name in members}


def _unfolded(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _unfolded(each, key) for key, each in value.items()}
    if isinstance(value, list):
        if name == "troubles":
            # Whether there are any is the machine's business.
            return {}
        if name == "findings":
            return {each["code"]: _unfolded(each) for each in value}
        return [_unfolded(each) for each in value]
    if isinstance(value, str) and name == "text" and value[:1] in ("{", "["):
        return {"as JSON": _unfolded(json.loads(value))}
    return value


class Normaliser:
    """Puts placeholders into the messages of one conversation."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message with placeholders."""
        # A cursor is opaque: that two answers have the same one says nothing.
        self._names = {value: name for value, name in self._names.items() if not name.startswith("<cursor")}
        return {name: self._value(each, name) for name, each in message.items()}

    def _value(self, value: Any, name: str, *, figures: bool = False) -> Any:
        if isinstance(value, dict):
            # The text of a resource is its content; any other is for people.
            kept = {"text"} if "uri" in value else set()
            figures = figures or name in _FIGURES
            return {
                key: each
                if key in kept and isinstance(each, str)
                else self._value(each, key, figures=figures)
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self._value(each, "", figures=figures) for each in value]
        if isinstance(value, str):
            return "<text>" if figures or name in _FIGURES else self._text(value, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            volatile = figures or name == "progress" or name.endswith(("_seconds", "_bytes"))
            return NUMBER if volatile and not name.startswith("deduplicated") else value
        return value

    def _text(self, value: str, name: str) -> str:
        if name in _PROSE:
            return "<prose>"
        if name == "version":
            return "<version>"
        if name == "first_kept":
            # The ID after the last one that goes, which is an entry's only if the two were added in one ms.
            return "<id>"
        if name == "text":
            code = re.match(r"[A-Z_]+: ", value)
            return f"{code[0] if code else ''}<prose>"
        kind = _OPAQUE.get(name)
        if kind is not None and (kind != "hex" or re.fullmatch(r"[0-9a-f]{32}", value)):
            return self._numbered(kind, value)
        value = re.sub(r"\d{13}-\d+", lambda found: self._numbered("id", found[0]), value)
        # Not numbered: two may be equal by chance.
        return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", value)

    def _numbered(self, kind: str, value: str) -> str:
        key = f"{kind} {value}"
        if key not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[key] = f"<{kind} {self._counts[kind]}>"
        return self._names[key]


def key_of(message: dict[str, Any]) -> tuple[str, str]:
    """Return what tells a message from the others of its step."""
    if "method" not in message:
        return "answer", json.dumps(message.get("id"))
    params = message.get("params", {})
    told = _some(params, "uri", "progressToken", "_meta", "requestId")
    return message["method"], json.dumps(told, sort_keys=True)


class Conversation:
    """One connection, and what was said on it."""

    def __init__(self, raw: RawClient) -> None:
        self._raw = raw
        self._told: set[tuple[str, str]] = set()

    async def exchange(
        self, lines: Iterable[str], *, answers: int, notifications: int
    ) -> list[dict[str, Any]]:
        """Send lines and return what comes of them, in order.

        Returns early with what has come if the rest does not come in time, or the connection ends.

        Args:
            lines: What is sent.
            answers: Answers that are to come.
            notifications: Notifications that are to come, besides those that came before.
        """
        await self._raw.send_bytes("".join(line + "\n" for line in lines).encode())
        received: list[dict[str, Any]] = []
        with trio.move_on_after(PATIENCE):
            while answers > 0 or notifications > 0:
                try:
                    message = relied_upon(await self._raw.receive())
                except EOFError:
                    break
                if "method" not in message:
                    answers -= 1
                elif message["method"] in _PASSED_OVER or key_of(message) in self._told:
                    continue
                else:
                    self._told.add(key_of(message))
                    notifications -= 1
                received.append(message)
        return received


async def replayed(path: str, steps: Sequence[Step]) -> list[str]:
    """Have a conversation again and return what differs, a line each."""
    found: list[str] = []
    bound: Bound = {}
    async with raw_client(path) as raw:
        conversation = Conversation(raw)
        for step in steps:
            told = sum("method" in message for message in step.received)
            received = await conversation.exchange(
                [filled(line, bound) for line in step.sent],
                answers=len(step.received) - told,
                notifications=told,
            )
            different = _compared(step.received, received, bound)
            if different:
                found += [f"# {step.note}", *(f"> {line}" for line in step.sent), *different, ""]
    return found


def _compared(expected: list[Any], received: list[dict[str, Any]], bound: Bound) -> list[str]:
    found = []
    left = list(received)
    for message in expected:
        match = next((each for each in left if key_of(each) == key_of(message)), None)
        if match is None:
            found.append(f"did not come: {json.dumps(message)}")
        else:
            left.remove(match)
            found += differences(message, match, bound)
    return found + [f"was not expected: {json.dumps(message)}" for message in left]


def read(name: str) -> list[Step]:
    """Read a transcript."""
    steps: list[Step] = []
    for line in (TRANSCRIPTS / f"{name}.txt").read_text("utf-8").splitlines():
        mark, text = line[:1], line[2:]
        if mark == "#":
            steps.append(Step(text, [], []))
        elif mark == ">":
            steps[-1].sent.append(text)
        elif mark == "<":
            steps[-1].received.append(json.loads(text))
    return steps


def write(name: str, steps: Iterable[Step]) -> None:
    """Write a transcript."""
    blocks = []
    for step in steps:
        received = [json.dumps(message, ensure_ascii=False) for message in step.received]
        lines = [f"# {step.note}", *(f"> {line}" for line in step.sent), *(f"< {line}" for line in received)]
        blocks.append("\n".join(lines) + "\n")
    TRANSCRIPTS.mkdir(exist_ok=True)
    (TRANSCRIPTS / f"{name}.txt").write_text("\n".join(blocks), "utf-8")
