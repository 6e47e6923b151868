"""Requests that a bridge has taken from its client and not answered yet.

Each kind knows how it is sent, what its answer changes, and whether it may be sent again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from redstreamd.client import own_messages
from redstreamd.client.message_forms import encoded, parsed, parsed_exactly
from redstreamd.client.own_messages import Failure
from redstreamd.client.repetition import (
    READ_ONLY_TOOLS,
    REPEATABLE_METHODS,
    may_repeat_call,
    step_after_unknown,
)

if TYPE_CHECKING:
    from redstreamd.client.session_interface import Session

#: How often one request is sent at most: one that ends the daemon each time must not do so forever.
MAX_SENDINGS: Final = 5

CALL: Final = b"tools/call"


class PendingRequest:
    """A request of the client.

    Attributes:
        line: The message with its newline, or a batch of this one message; None if it is too long to keep.
        method: Its method.
        batched: Whether it came in a batch; then the answer is a batch, too.
        is_sent: Whether it was handed to the present connection.
        sendings: To how many connections it was handed.
        since: When it came, or the connection was lost that it was handed to; by the session's clock.
    """

    __slots__ = ("batched", "is_sent", "line", "method", "sendings", "since")

    def __init__(self, line: bytes | None, method: bytes, batched: bool = False) -> None:
        """Take a request; `since` has to be set where it is not sent at once."""
        self.line = line
        self.method = method
        self.batched = batched
        self.is_sent = False
        self.sendings = 0
        self.since = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a daemon, and may do so only for some time."""
        return not self.is_sent

    @property
    def may_begin_later(self) -> bool:
        """Whether it means the same if no daemon gets it at first."""
        return True

    def start(self, session: Session, request_id: bytes) -> None:
        """Hand it to the connection."""
        if self.line is not None:
            session.to_daemon.append(self.line)
        self.is_sent = True
        self.sendings += 1

    def finish(self, session: Session, request_id: bytes, line: bytes, is_result: bool) -> None:
        """Act on its answer, and pass it on."""
        session.requests.remove(request_id)
        session.to_client.append(line)

    def params(self) -> Any:
        """Return its parameters; None if they are not kept."""
        message = None if self.line is None else parsed(self.line)
        if isinstance(message, list):
            message = message[0]
        return message.get("params") if isinstance(message, dict) else None

    def may_repeat(self) -> bool:
        """Return whether it may be sent again after a connection was lost that it was handed to."""
        if self.line is None or self.sendings >= MAX_SENDINGS:
            return False
        return may_repeat_call(self.params()) if self.method == CALL else _is_repeatable(self.method)

    def unknown(self) -> Failure:
        """Return what the client is told where it may not be sent again."""
        cause = "redstreamd was stopped or restarted after it took the request and before it answered."
        if self.method != CALL:
            step = "Check whether it took effect before repeating it."
            if _is_repeatable(self.method):
                step = "Repeat it: it changes nothing."
            return Failure("OUTCOME_UNKNOWN", "Whether the request took effect is unknown.", cause, step)
        params = self.params()
        if isinstance(params, dict) and params.get("name") in READ_ONLY_TOOLS:
            return Failure(
                "CONNECTION_ERROR", "The call was not answered.", cause, "Repeat it: it changes nothing."
            )
        step = step_after_unknown(params)
        return Failure("OUTCOME_UNKNOWN", "Whether the call took effect is unknown.", cause, step)

    def overdue(self, cause: str) -> Failure:
        """Return what the client is told when no daemon came to take it."""
        if self.sendings and not self._only_reads():
            return Failure(
                "OUTCOME_UNKNOWN",
                "Whether the call took effect is unknown.",
                f"redstreamd went before it answered. {cause}",
                step_after_unknown(self.params()),
            )
        what = "call" if self.method == CALL else "request"
        return Failure("CONNECTION_ERROR", f"The {what} was not executed.", cause, "Repeat it in a moment.")

    def _only_reads(self) -> bool:
        if self.method != CALL:
            return _is_repeatable(self.method)
        params = self.params()
        return isinstance(params, dict) and params.get("name") in READ_ONLY_TOOLS


class Initialize(PendingRequest):
    """The handshake."""

    __slots__ = ()

    def finish(self, session: Session, request_id: bytes, line: bytes, is_result: bool) -> None:
        """Remember a handshake that succeeded."""
        if is_result and self.line is not None:
            session.remember_handshake(request_id, self.line, line)
        super().finish(session, request_id, line, is_result)


class Wait(PendingRequest):
    """A call of ``stream_wait``, which sent again goes on where it stood.

    One without a cursor begins with what comes after it. So that it can be sent again, the bridge first asks
    for the position by a wait of no time, and sends the client's call once that is answered: what is added
    after the call is then after the position. While no daemon is there, nobody can tell the position; then
    the client is told from which time on to read, rather than that it misses what comes meanwhile.

    Attributes:
        message: The call, parsed.
        cursor: Where it begins; None if that is not known.
        started: When it was first sent, by the session's clock.
        started_at: When it came, by the system's clock.
    """

    __slots__ = ("cursor", "is_asked", "message", "started", "started_at")

    def __init__(self, line: bytes, message: dict[str, Any], batched: bool) -> None:
        """Take a call whose arguments are an object."""
        super().__init__(line, CALL, batched)
        self.message = message
        cursor = message["params"]["arguments"].get("cursor")
        self.cursor: str | None = cursor if isinstance(cursor, str) else None
        self.is_asked = False
        self.started = 0.0
        self.started_at = time.time()

    @property
    def may_begin_later(self) -> bool:
        """Whether the position is known."""
        return self.cursor is not None

    def start(self, session: Session, request_id: bytes) -> None:
        """Ask for the position, if it is not known; else send the call, the first time as the client did."""
        if self.cursor is None and not self.is_asked:
            own = session.requests.add_own(_Position(self, request_id))
            session.to_daemon.append(encoded(self._question(own)) or b"")
        elif not self.started:
            self.started = session.now()
            super().start(session, request_id)
        else:
            again = self._again(session.now() - self.started)
            session.to_daemon.append(own_messages.in_batch(again) if self.batched else again)
            self.is_sent = True
            self.sendings += 1

    def may_repeat(self) -> bool:
        """Return whether the position is known."""
        return self.cursor is not None

    def unknown(self) -> Failure:
        """Say from where on entries may have been missed."""
        # The clock of Redis may be another.
        start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started_at - 10))
        return Failure(
            "CONNECTION_ERROR",
            "The wait has not begun, or was cut short.",
            "redstreamd was away or went before it told where the wait begins.",
            f"Read with stream_read and start {start} what came meanwhile; then wait with its next_cursor.",
        )

    def overdue(self, cause: str) -> Failure:
        """Name the cursor, if there is one."""
        step = "Call it again."
        if self.cursor is not None:
            step = f"Call it again with cursor {self.cursor!r}: nothing is missed."
        return Failure("CONNECTION_ERROR", "The wait was cut short.", cause, step)

    def _question(self, own: bytes) -> dict[str, Any]:
        params = self.message["params"]
        arguments = {"streams": params["arguments"].get("streams"), "timeout_seconds": 0}
        question: dict[str, Any] = {"name": "stream_wait", "arguments": arguments}
        if isinstance(meta := params.get("_meta"), dict):
            question["_meta"] = {name: value for name, value in meta.items() if name != "progressToken"}
        return {"jsonrpc": "2.0", "id": own.decode().strip('"'), "method": "tools/call", "params": question}

    def _again(self, passed: float) -> bytes:
        """Return the call with its cursor, and the time that is left."""
        arguments = {**self.message["params"]["arguments"], "cursor": self.cursor}
        seconds = arguments.get("timeout_seconds")
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            arguments["timeout_seconds"] = max(0, round(seconds - passed, 3))
        message = {**self.message, "params": {**self.message["params"], "arguments": arguments}}
        return encoded(message) or self.line or b""


def wait_of(line: bytes, batched: bool) -> Wait | None:
    """Return the request on a line if it is a ``stream_wait`` that can be sent again; None if not."""
    message = parsed_exactly(line[1:-2] if batched else line)
    params = None if message is None else message.get("params")
    if message is None or not isinstance(params, dict) or params.get("name") != "stream_wait":
        return None
    if not isinstance(params.get("arguments"), dict) or encoded(message) is None:
        return None
    return Wait(line, message, batched)


class OwnRequest(PendingRequest):
    """A request of the bridge itself; forgotten with its connection."""

    __slots__ = ()

    def __init__(self) -> None:
        """Count as sent."""
        super().__init__(None, b"")
        self.is_sent = True


class _Position(OwnRequest):
    """Asks where a wait begins."""

    __slots__ = ("wait", "wait_id")

    def __init__(self, wait: Wait, wait_id: bytes) -> None:
        super().__init__()
        self.wait = wait
        self.wait_id = wait_id

    def finish(self, session: Session, request_id: bytes, line: bytes, is_result: bool) -> None:
        """Send the wait; without a position, if the daemon gives none."""
        session.requests.remove(request_id)
        if session.requests.by_id.get(self.wait_id) is not self.wait:
            return  # the client has cancelled it
        message = parsed(line)
        content = (
            (message.get("result") or {}).get("structuredContent") if isinstance(message, dict) else None
        )
        cursor = content.get("next_cursor") if isinstance(content, dict) else None
        self.wait.cursor = cursor if isinstance(cursor, str) else None
        self.wait.is_asked = True
        if session.is_open:
            self.wait.start(session, self.wait_id)
        else:
            # Later than the position, so not as the client sent it.
            self.wait.started = session.now()


def _is_repeatable(method: bytes) -> bool:
    return method.decode("ascii", "replace") in REPEATABLE_METHODS
