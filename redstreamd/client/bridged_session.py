"""A client's session, over any number of connections to the daemon, one after the other; without I/O.

Remembers what the daemon forgets with a connection: the handshake, the requests that are not answered, the
subscriptions. Lines go in by `from_client` and `from_daemon`, and come out in `to_daemon` and `to_client`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, ValuesView
from typing import Any, Final, NamedTuple

from redstreamd.client import own_messages
from redstreamd.client.long_line import LongLine
from redstreamd.client.message_forms import (
    answer_form,
    id_text,
    members_of_batch,
    notification_form,
    parsed,
    request_form,
    same_id_texts,
)
from redstreamd.client.own_messages import NOT_NOW, Failure
from redstreamd.client.pending_requests import CALL, Initialize, OwnRequest, PendingRequest, Wait, wait_of
from redstreamd.client.subscription_memory import Listen, SubscriptionMemory, notified, special_request

#: Seconds that a request waits for a daemon. Clients give up after 60, some after 30.
PATIENCE_SECONDS: Final = 20.0
#: Bytes of the requests in flight that are kept to be sent again; what exceeds them is not.
MAX_KEPT_BYTES: Final = 4 * 1024 * 1024
#: Requests, and their bytes, that wait for a daemon; then no more are taken from the client.
MAX_WAITING: Final = 1_000
MAX_WAITING_BYTES: Final = 1024 * 1024

#: The revision that has batches.
_BATCHES: Final = "2025-03-26"
_ENVELOPE: Final = b'"io.modelcontextprotocol/protocolVersion"'
#: Methods of which more is to be remembered than the line.
_SPECIAL: Final = frozenset(
    {
        b"initialize",
        b"resources/list",
        b"resources/subscribe",
        b"resources/unsubscribe",
        b"subscriptions/listen",
    }
)
_NOTED: Final = frozenset(
    {
        b"notifications/resources/updated",
        b"notifications/resources/list_changed",
        b"notifications/subscriptions/acknowledged",
    }
)


class _Handshake(NamedTuple):
    request_id: bytes
    line: bytes
    revision: str


class BridgedSession:
    """One client.

    Behaviour:
        A request is answered once: by the daemon that it was sent to, by a later one that it was sent to
        again, or by the bridge. An answer to anything else is dropped. A connection takes requests once its
        daemon has answered the greeting, so that a request that waits for a daemon is certainly not executed;
        the first connection takes them at once.

    Attributes:
        now: A clock in seconds.
        to_daemon: Lines to be sent, to be taken away by the caller; lost with the connection.
        to_client: The same for the client.
        notices: What a person should know, to be taken away by the caller.
        is_live: Whether the daemon of the present connection has answered the greeting.
        is_refused: Whether it has refused it; then the caller has to close the connection.
        refusal: The reason of the last one.
        has_client_ended: Whether the client has sent all that it will.
        subscriptions: Those of the handshake era.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with a first connection."""
        self.now = now
        self.to_daemon: list[bytes] = []
        self.to_client: list[bytes] = []
        self.notices: list[str] = []
        self.is_live = True
        self.is_refused = False
        self.refusal = ""
        self.has_client_ended = False
        self.subscriptions = SubscriptionMemory()
        # By id; in the order in which they came.
        self._requests: dict[bytes, PendingRequest] = {}
        self._kept_bytes = 0
        # Lines that are no requests, for the next connection.
        self._others: list[bytes] = []
        self._handshake: _Handshake | None = None
        self._initialized: bytes | None = None
        # None before the first request.
        self._has_envelope: bool | None = None
        # The id of the greeting that is to be answered.
        self._greeting = b""
        # The daemon has refused a request because it stops.
        self._is_closing = False
        # False: no request waits for a daemon.
        self._may_wait = False
        self._own_ids = f"redstreamd-connect-{os.urandom(8).hex()}"
        self._own_count = 0
        self._long: LongLine | None = None
        # A request whose id is not known was sent.
        self._passes_unknown = False

    # ---- what the caller asks

    @property
    def is_open(self) -> bool:
        """Whether the present connection takes requests."""
        return self.is_live and not self._is_closing

    @property
    def is_steady(self) -> bool:
        """Whether requests pass, nothing waits for a daemon, and the client may send more."""
        return self.is_live and not (self._is_closing or self._may_wait or self.has_client_ended)

    @property
    def is_idle(self) -> bool:
        """Whether no request of the client waits for its answer."""
        return all(isinstance(each, OwnRequest) for each in self._requests.values())

    @property
    def wants_input(self) -> bool:
        """Whether more may be taken from the client."""
        if self.is_live and not self._is_closing:
            return True
        if self._long is not None and self._long.is_held:
            return False
        lines = [each.line or b"" for each in self._requests.values() if not each.is_sent] + self._others
        return len(lines) < MAX_WAITING and sum(map(len, lines)) < MAX_WAITING_BYTES

    @property
    def deadline(self) -> float | None:
        """When `expire` is due; None if nothing waits for a daemon."""
        if not self._may_wait:
            return None
        since = [each.since for each in self._requests.values() if _is_waiting(each)]
        self._may_wait = bool(since)
        return min(since) + PATIENCE_SECONDS if since else None

    # ---- the client

    def from_client(self, line: bytes) -> None:
        """Take a line of the client, with its newline."""
        if self.sends_at_once(line):
            self.to_daemon.append(line)
        else:
            self._from_client(line, parsed(line), batched=False)

    def sends_at_once(self, line: bytes) -> bool:
        """Take a line of the client if it is a request that only has to be remembered, and can be sent now.

        The caller sends it then. Else nothing was done, and it is to be given to `from_client`.
        """
        if not self.is_live or self._is_closing or self._has_envelope is None:
            return False
        found = request_form(line)
        if found is None:
            return False
        request_id, method = found
        if method in _SPECIAL or request_id in self._requests or b'"stream_wait"' in line:
            return False
        request = self._requests[request_id] = PendingRequest(line, method)
        request.is_sent = True
        request.sendings = 1
        self._kept_bytes += len(line)
        if self._kept_bytes > MAX_KEPT_BYTES:
            self._kept_bytes -= len(line)
            request.line = None
        return True

    def from_client_in_pieces(self, piece: bytes, *, is_first: bool, is_last: bool) -> None:
        """Take a piece of a line that is too long to be kept; the last one has its newline."""
        if is_first:
            self._long = LongLine(piece)
        long = self._long
        if long is None:
            return
        long.note(piece)
        if is_first or is_last:
            self._register(long, is_last)
        if long.is_discarded:
            pass
        elif self.is_open:
            self.to_daemon.append(piece)
        else:
            long.hold(piece, self.now())
            self._may_wait = True
        if is_last:
            self._long = None

    def client_ended(self) -> None:
        """Note that the client will send no more; what is in flight is still answered."""
        self.has_client_ended = True

    def _from_client(self, line: bytes, message: Any, *, batched: bool) -> None:
        if isinstance(message, list) and not batched and self._revision == _BATCHES:
            members = members_of_batch(line)
            if members is not None:
                # The daemon answers each by itself, too.
                for text in members:
                    self._from_client(b"[" + text + b"]\n", parsed(text), batched=True)
                return
        method = message.get("method") if isinstance(message, dict) else None
        request_id = id_text(message.get("id")) if isinstance(message, dict) else None
        if not isinstance(method, str):
            self._pass_on(line)
        elif request_id is None:
            if "id" not in message and self._is_consumed(method, message.get("params"), line):
                return
            self._pass_on(line)
        elif request_id in self._requests:
            answer = own_messages.refused(request_id, "another request with this id is still in flight")
            self.to_client.append(own_messages.in_batch(answer) if batched else answer)
        else:
            if self._has_envelope is None:
                self._has_envelope = _ENVELOPE in line
            self._add(request_id, self._request(line, message, batched))

    def _request(self, line: bytes, message: dict[str, Any], batched: bool) -> PendingRequest:
        method: str = message["method"]
        if method == "initialize" and self._handshake is None and not batched:
            return Initialize(line, b"initialize")
        if method == "tools/call" and (wait := wait_of(line, batched)) is not None:
            return wait
        special = special_request(self, line, message, batched)
        return special or PendingRequest(line, method.encode("ascii", "replace"), batched)

    def _is_consumed(self, method: str, params: Any, line: bytes) -> bool:
        """Take note of a notification; return whether it goes no further."""
        if method == "notifications/initialized":
            self._initialized = line
            # The next daemon gets it after the handshake.
            return not self.is_open
        if method != "notifications/cancelled" or not isinstance(params, dict):
            return False
        for request_id in same_id_texts(params.get("requestId")):
            request = self._requests.get(request_id)
            if request is not None and not isinstance(request, Initialize):
                self.remove(request_id)
                return not (request.is_sent and self.is_open)
        return not self.is_open

    def _add(self, request_id: bytes, request: PendingRequest) -> None:
        self._requests[request_id] = request
        self._kept_bytes += len(request.line or b"")
        if self.is_live and not self._is_closing:
            request.start(self, request_id)
            if not request.is_sent:
                request.since = self.now()
                self._may_wait = True
        elif isinstance(request, Wait) and request.cursor is None:
            self._fail(request_id, request, request.unknown())
        else:
            request.since = self.now()
            self._may_wait = True

    def _register(self, long: LongLine, is_last: bool) -> None:
        """Remember the request on a long line, once its id has come."""
        request_id = long.request_id
        if request_id is None:
            self._passes_unknown = self._passes_unknown or (is_last and not long.is_discarded)
        elif not long.is_registered and request_id not in self._requests:
            long.is_registered = True
            request = PendingRequest(None, long.method)
            self._requests[request_id] = request
            request.since = self.now()
            request.is_sent = self.is_open
            if long.is_discarded:
                self._fail(request_id, request, _not_executed(self._cause()))

    def _pass_on(self, line: bytes) -> None:
        if self.is_open:
            self.to_daemon.append(line)
        elif line.strip():
            self._others.append(line)

    # ---- the daemon

    def from_daemon(self, line: bytes) -> None:
        """Take a line of the daemon, with its newline."""
        if self.gives_at_once(line):
            self.to_client.append(line)
            return
        if not self.is_live:
            self._greeted(line)
            return
        found = answer_form(line)
        if found is not None:
            self._answered(found[1], line, found[2] == b"result")
        elif (note := notification_form(line)) is not None:
            if note[1] in _NOTED:
                notified(self, line)
            else:
                self.to_client.append(line)
        else:
            message = _only(parsed(line))
            request_id = None if message is None or "method" in message else id_text(message.get("id"))
            if message is None or request_id is None:
                self.to_client.append(line)
            else:
                self._answered(request_id, line, "result" in message)

    def gives_at_once(self, line: bytes) -> bool:
        """Take a line of the daemon if it is a result that changes nothing but that it has come.

        The caller passes it on then. Else nothing was done, and it is to be given to `from_daemon`.
        """
        found = answer_form(line)
        if found is None or found[2] != b"result":
            return False
        request = self._requests.get(found[1])
        if type(request) is not PendingRequest or not request.is_sent:
            return False
        if request.line is not None:
            self._kept_bytes -= len(request.line)
        del self._requests[found[1]]
        return True

    def _answered(self, request_id: bytes, line: bytes, is_result: bool) -> None:
        request = self._requests.get(request_id)
        if request is None:
            if self._passes_unknown:
                self.to_client.append(line)
        elif is_result or (data := _data(line)) is None or self.has_client_ended:
            request.finish(self, request_id, line, is_result)
        elif data.get("stopping") is True and data.get("executed") is False:
            self._is_closing = True
            if isinstance(request, OwnRequest):
                self.remove(request_id)
            else:
                self.put_back(request)
        elif data.get("executed", False) is not None:
            request.finish(self, request_id, line, is_result)
        elif isinstance(request, OwnRequest):
            self.remove(request_id)
        elif not request.may_repeat():
            self._fail(request_id, request, request.unknown())
        elif self.is_open:
            request.start(self, request_id)
        else:
            self.put_back(request)
            request.sendings += 1

    # ---- connections

    def greet(self) -> None:
        """Begin with a new connection: send what its daemon has to answer before it gets requests."""
        self.is_refused = self._is_closing = False
        for request_id, request in self._requests.items():
            if isinstance(request, Initialize):
                self._greeting = request_id
                self.to_daemon.append(request.line or b"")
                return
        if self._handshake is not None:
            self._greeting = self._handshake.request_id
            self.to_daemon.append(self._handshake.line)
        else:
            self._greeting = self._own_id()
            self.to_daemon.append(own_messages.probe(self._greeting, modern=self._is_modern))

    def lost(self, unsent: Iterable[bytes] = ()) -> None:
        """Note that the connection is lost: answer what may not be sent again.

        Args:
            unsent: Lines of `to_daemon` that were not handed over as a whole.
        """
        was_live, self.is_live = self.is_live, False
        whole = {request_id for line in (*unsent, *self.to_daemon) for request_id in _ids(line)}
        self.to_daemon.clear()
        if not was_live:
            return
        now = self.now()
        for request_id, request in list(self._requests.items()):
            if isinstance(request, OwnRequest):
                self.remove(request_id)
            elif not request.is_sent:
                if isinstance(request, Wait) and request.cursor is None:
                    self._fail(request_id, request, request.unknown())
            elif self._long is not None and request_id == self._long.request_id:
                self._fail(
                    request_id, request, _not_executed("redstreamd went before it had the whole request.")
                )
            elif self.has_client_ended and isinstance(request, Listen):
                self._fail(request_id, request, request.unknown())
            elif request_id in whole or request.may_repeat():
                request.sendings -= request_id in whole
                request.is_sent = False
                request.since = now
                self._may_wait = True
            else:
                self._fail(request_id, request, request.unknown())
        if self._long is not None:
            self._long.discard_rest()

    def expire(self) -> None:
        """Answer what has waited for too long."""
        now = self.now()
        cause = self._cause()
        for request_id, request in list(self._requests.items()):
            if _is_waiting(request) and request.since + PATIENCE_SECONDS <= now:
                if self._long is not None and request_id == self._long.request_id:
                    self._long.discard()
                if request_id == self._greeting and not self.is_live:
                    # The daemon may have shaken hands with a client that is told it has not.
                    self.is_refused = True
                self._fail(request_id, request, request.overdue(cause))
        long = self._long
        if long is not None and long.request_id is None and long.since + PATIENCE_SECONDS <= now:
            long.discard()

    def _greeted(self, line: bytes) -> None:
        message = parsed(line)
        if (
            not isinstance(message, dict)
            or id_text(message.get("id")) != self._greeting
            or "method" in message
        ):
            return
        request = self._requests.get(self._greeting)
        is_handshake = isinstance(request, Initialize) or self._handshake is not None
        if "result" in message:
            if isinstance(request, Initialize):
                request.finish(self, self._greeting, line, is_result=True)
            elif self._handshake is not None:
                self._compare(message["result"])
            self._go_live()
            return
        error = message.get("error")
        error = error if isinstance(error, dict) else {}
        if error.get("code") == NOT_NOW or (is_handshake and request is None):
            self.is_refused = True
            self.refusal = str(error.get("message"))
            return
        # The daemon is there, and did not like the client's request, or does not know the probe.
        if isinstance(request, Initialize):
            request.finish(self, self._greeting, line, is_result=False)
        self._go_live()

    def _compare(self, result: Any) -> None:
        revision = result.get("protocolVersion") if isinstance(result, dict) else None
        if self._handshake is not None and revision != self._handshake.revision:
            self.notices.append(
                f"the daemon now speaks MCP {revision}, but the client was told {self._handshake.revision}; "
                "start the client anew if it misunderstands answers"
            )
            self._handshake = self._handshake._replace(revision=str(revision))

    def _go_live(self) -> None:
        self.is_live = True
        self.refusal = ""
        self._greeting = b""
        if self._handshake is not None and self._initialized is not None:
            self.to_daemon.append(self._initialized)
        if not self.has_client_ended:
            self.subscriptions.take_up(self)
        for request_id, request in list(self._requests.items()):
            if not request.is_sent:
                if request.line is None and self._long is not None and request_id == self._long.request_id:
                    request.is_sent = True
                else:
                    request.start(self, request_id)
        self.to_daemon += self._others
        self._others.clear()
        if self._long is not None:
            self.to_daemon += self._long.take_held()

    # ---- for the requests

    def remember(self, request_id: bytes, line: bytes, answer: bytes) -> None:
        """Remember a handshake."""
        message = parsed(answer)
        result = message.get("result") if isinstance(message, dict) else None
        revision = result.get("protocolVersion") if isinstance(result, dict) else None
        self._handshake = _Handshake(request_id, line, str(revision))

    def pending(self, request_id: bytes) -> PendingRequest | None:
        """Return the request with this id, if it waits for its answer."""
        return self._requests.get(request_id)

    def all_pending(self) -> ValuesView[PendingRequest]:
        """Return all requests that wait for an answer."""
        return self._requests.values()

    def add_own(self, request: OwnRequest) -> bytes:
        """Expect the answer to a request of the bridge; return its id."""
        request_id = self._own_id()
        self._requests[request_id] = request
        return request_id

    def remove(self, request_id: bytes) -> None:
        """Forget a request."""
        request = self._requests.pop(request_id)
        if request.line is not None:
            self._kept_bytes -= len(request.line)

    def put_back(self, request: PendingRequest) -> None:
        """Keep a request, which was not executed, for the next connection."""
        request.is_sent = False
        request.sendings -= 1
        request.since = self.now()
        self._may_wait = True

    # ---- within

    @property
    def _revision(self) -> str:
        return "" if self._handshake is None else self._handshake.revision

    @property
    def _is_modern(self) -> bool:
        return self._handshake is None and bool(self._has_envelope)

    def _own_id(self) -> bytes:
        self._own_count += 1
        return f'"{self._own_ids}-{self._own_count}"'.encode()

    def _cause(self) -> str:
        why = f" and refused with: {self.refusal}" if self.refusal else ""
        return f"No daemon took it within {PATIENCE_SECONDS:g} s{why}."

    def _fail(self, request_id: bytes, request: PendingRequest, failure: Failure) -> None:
        self.remove(request_id)
        if request.method == CALL:
            line = own_messages.failed_call(request_id, failure, modern=self._is_modern)
        else:
            line = own_messages.failed_request(request_id, failure)
        self.to_client.append(own_messages.in_batch(line) if request.batched else line)


def _is_waiting(request: PendingRequest) -> bool:
    """Whether a request waits for a daemon; one that listens may do so for ever."""
    return not request.is_sent and not (isinstance(request, Listen) and request.is_acknowledged)


def _data(line: bytes) -> dict[str, Any] | None:
    """Return the data of an error that says whether the request was executed; None if it does not."""
    if b'"executed":' not in line:
        return None
    message = _only(parsed(line))
    error = None if message is None else message.get("error")
    data = error.get("data") if isinstance(error, dict) else None
    return data if isinstance(data, dict) and "executed" in data else None


def _only(message: Any) -> dict[str, Any] | None:
    """Return a message, or that of a batch of one."""
    if isinstance(message, list) and len(message) == 1:
        message = message[0]
    return message if isinstance(message, dict) else None


def _ids(line: bytes) -> list[bytes]:
    """Return the ids of the requests on a line."""
    found = request_form(line)
    if found is not None:
        return [found[0]]
    message = parsed(line)
    members = message if isinstance(message, list) else [message]
    ids = [id_text(each.get("id")) for each in members if isinstance(each, dict)]
    return [each for each in ids if each is not None]


def _not_executed(cause: str) -> Failure:
    return Failure("CONNECTION_ERROR", "The request was not executed.", cause, "Repeat it in a moment.")
