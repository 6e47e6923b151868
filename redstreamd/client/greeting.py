"""What a bridge sends first over a new connection, and what its daemon answers.

The daemon has to know the client's handshake, and to have said that it serves, before it gets requests. A
client without a handshake, or before it, is probed for: by a request that changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redstreamd.client import own_messages
from redstreamd.client.message_forms import id_text, parsed
from redstreamd.client.own_messages import NOT_NOW
from redstreamd.client.pending_requests import Initialize

if TYPE_CHECKING:
    from redstreamd.client.session_interface import Session

#: In the requests of revision 2026-07-28.
_ENVELOPE: Final = b'"io.modelcontextprotocol/protocolVersion"'


class _Handshake(NamedTuple):
    request_id: bytes
    line: bytes
    revision: str


class Greeting:
    """The greeting of one client's connections, and what is remembered for it.

    Attributes:
        initialized: The notification that ended the client's handshake; None before it.
        has_envelope: Whether the client's requests name their revision; None before the first request.
        is_refused: Whether the present daemon has refused it.
        refusal: The reason of the last refusal; empty once a daemon has taken it.
    """

    def __init__(self) -> None:
        """Begin without a handshake."""
        self.initialized: bytes | None = None
        self.has_envelope: bool | None = None
        self.is_refused = False
        self.refusal = ""
        self._handshake: _Handshake | None = None
        # Of the one that is to be answered.
        self._request_id = b""

    @property
    def has_handshake(self) -> bool:
        """Whether the client has shaken hands."""
        return self._handshake is not None

    @property
    def revision(self) -> str:
        """The revision that the client was told in its handshake; empty without one."""
        return "" if self._handshake is None else self._handshake.revision

    @property
    def is_modern(self) -> bool:
        """Whether the client speaks revision 2026-07-28."""
        return self._handshake is None and bool(self.has_envelope)

    def note_first_request(self, line: bytes) -> None:
        """Take the era from the client's first request; do nothing after that."""
        if self.has_envelope is None:
            self.has_envelope = _ENVELOPE in line

    def remember(self, request_id: bytes, line: bytes, answer: bytes) -> None:
        """Keep a handshake that succeeded."""
        message = parsed(answer)
        result = message.get("result") if isinstance(message, dict) else None
        revision = result.get("protocolVersion") if isinstance(result, dict) else None
        self._handshake = _Handshake(request_id, line, str(revision))

    def begin(self, session: Session) -> None:
        """Send it."""
        self.is_refused = False
        for request_id, request in session.requests.by_id.items():
            if isinstance(request, Initialize):
                self._request_id = request_id
                session.to_daemon.append(request.line or b"")
                return
        if self._handshake is not None:
            self._request_id = self._handshake.request_id
            session.to_daemon.append(self._handshake.line)
        else:
            self._request_id = session.requests.new_id()
            session.to_daemon.append(own_messages.probe(self._request_id, modern=self.is_modern))

    def connection_lost(self) -> None:
        """Expect no answer: the connection that it was sent over is lost."""
        self.is_refused = False
        self._request_id = b""

    def awaits(self, request_id: bytes) -> bool:
        """Return whether it is the client's request with this id."""
        return request_id == self._request_id

    def taken(self, session: Session, line: bytes) -> bool:
        """Take a line of the daemon; return whether it takes requests now."""
        message = parsed(line)
        if (
            not isinstance(message, dict)
            or id_text(message.get("id")) != self._request_id
            or "method" in message
        ):
            return False
        request = session.requests.by_id.get(self._request_id)
        is_handshake = isinstance(request, Initialize) or self._handshake is not None
        if "result" in message:
            if isinstance(request, Initialize):
                request.finish(session, self._request_id, line, is_result=True)
            elif self._handshake is not None:
                self._compare(session, message["result"])
        else:
            error = message.get("error")
            error = error if isinstance(error, dict) else {}
            if error.get("code") == NOT_NOW or (is_handshake and request is None):
                self.is_refused = True
                self.refusal = str(error.get("message"))
                return False
            # The daemon is there, and did not like the client's request, or does not know the probe.
            if isinstance(request, Initialize):
                request.finish(session, self._request_id, line, is_result=False)
        self.refusal = ""
        self._request_id = b""
        if self._handshake is not None and self.initialized is not None:
            session.to_daemon.append(self.initialized)
        return True

    def _compare(self, session: Session, result: Any) -> None:
        revision = result.get("protocolVersion") if isinstance(result, dict) else None
        if self._handshake is not None and revision != self._handshake.revision:
            session.notices.append(
                f"the daemon now speaks MCP {revision}, but the client was told {self._handshake.revision}; "
                "start the client anew if it misunderstands answers"
            )
            self._handshake = self._handshake._replace(revision=str(revision))
