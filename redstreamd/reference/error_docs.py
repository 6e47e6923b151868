"""Generates docs/errors.md: which reply of Redis becomes which code, and what is done about it.

Owns the form of docs/errors.md, which `make generate` writes and a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator

from redstreamd.errors import Code
from redstreamd.redisio.error_replies import TABLE, UNEXPECTED, Row
from redstreamd.redisio.redis_errors import (
    CommandTimedOut,
    OutcomeUnknown,
    QueueFull,
    Recovery,
    RedisUnavailable,
    ReplyTooLarge,
)

_HEAD = """\
# Errors of Redis

Generated from `redstreamd/redisio/`. What a call answers when Redis or the way to it fails: the code is that
of the tool error; every answer also has a message, the cause and a next step.

## Lost connections and deadlines

| class | code | recovery |
|---|---|---|"""

_REPLIES = """
## Replies of the server

Where the user may not run a command or use a key, or the server does not have a command, also inside of a
script, message and next step name the command ("XINFO STREAM") or the key's pattern, and the line that grants
it (`ACL SETUSER <user> +xinfo|stream`). A user without PING cannot be logged in: each call says so with
CONNECTION_ERROR. What only helps is done without: hints in errors, figures of INFO and CONFIG in
`stream_health`, `CLIENT TRACKING` (waits then look four times a second).

| reply | code | meaning | recovery |
|---|---|---|---|"""

_TRANSPORT: tuple[tuple[str, Recovery, Code], ...] = (
    ("RedisUnavailable", RedisUnavailable.recovery, Code.CONNECTION_ERROR),
    ("OutcomeUnknown", OutcomeUnknown.recovery, Code.OUTCOME_UNKNOWN),
    ("CommandTimedOut", CommandTimedOut.recovery, Code.TIMEOUT),
    ("QueueFull", QueueFull.recovery, Code.RATE_LIMITED),
    ("ReplyTooLarge", ReplyTooLarge.recovery, Code.TOO_LARGE),
)


def as_markdown() -> str:
    """Return the tables."""
    return "\n".join((_HEAD, *_transport(), _REPLIES, *_replies())) + "\n"


def _transport() -> Iterator[str]:
    for name, recovery, code in _TRANSPORT:
        yield f"| {name} | {code} | {recovery} |"


def _replies() -> Iterator[str]:
    for row in (*TABLE, UNEXPECTED):
        yield f"| {_reply(row)} | {row.code} | {row.message} | {row.recovery} |"


def _reply(row: Row) -> str:
    if row is UNEXPECTED:
        return "anything else"
    texts = " or ".join(f"`{text}`" for text in row.texts)
    return " with ".join(filter(None, (f"`{row.reply_code}`" if row.reply_code else "", texts)))
