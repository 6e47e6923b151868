"""A client's session, over any number of connections to the daemon, one after the other; without I/O.

Remembers what the daemon forgets with a connection: the handshake, the requests that are not answered, the
subscriptions. Lines go in by `from_client` and `from_daemon`, and come out in `to_daemon` and `to_client`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from redstreamd.client import own_messages
from redstreamd.client.greeting import Greeting
from redstreamd.client.long_line import LongLine
from redstreamd.client.message_forms import (
    answer_form,
    execution_data,
    id_text,
    members_of_batch,
    notification_form,
    only_message,
    parsed,
    request_form,
    request_ids,
    same_id_texts,
)
from redstreamd.client.own_messages import Failure, not_executed
from redstreamd.client.pending_requests import CALL, Initialize, OwnRequest, PendingRequest
from redstreamd.client.request_kinds import SPECIAL_METHODS, WAIT, request_of
from redstreamd.client.request_table import MAX_KEPT_BYTES, PATIENCE_SECONDS, RequestTable
from redstreamd.client.subscription_memory import Listen, SubscriptionMemory, notified

#: Requests, and their bytes, that wait for a daemon; then no more are taken from the client.
MAX_WAITING: Final = 1_000
MAX_WAITING_BYTES: Final = 1024 * 1024

#: The revision that has batches.
_BATCHES: Final = "2025-03-26"
_NOTED: Final = frozenset(
    {
        b"notifications/resources/updated",
        b"notifications/resources/list_changed",
        b"notifications/subscriptions/acknowledged",
    }
)


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
        greeting: The greeting; where it `is_refused`, the caller has to close the connection.
        requests: Those that are not answered.
        subscriptions: Those of the handshake era.
        has_client_ended: Whether the client has sent all that it will.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with a first connection."""
        self.now = now
        self.to_daemon: list[bytes] = []
        self.to_client: list[bytes] = []
        self.notices: list[str] = []
        self.is_live = True
        self.greeting = Greeting()
        self.requests = RequestTable(now)
        self.has_client_ended = False
        self.subscriptions = SubscriptionMemory()
        # Lines that are no requests, for the next connection.
        self._others: list[bytes] = []
        # The daemon has refused a request because it stops.
        self._is_closing = False
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
        return self.is_live and not (self._is_closing or self.requests.may_wait or self.has_client_ended)

    @property
    def wants_input(self) -> bool:
        """Whether more may be taken from the client."""
        if self.is_open:
            return True
        if self._long is not None and self._long.is_held:
            return False
        lines = self.requests.unsent_lines() + self._others
        return len(lines) < MAX_WAITING and sum(map(len, lines)) < MAX_WAITING_BYTES

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
        if not self.is_live or self._is_closing or self.greeting.has_envelope is None:
            return False
        found = request_form(line)
        if found is None:
            return False
        request_id, method = found
        # A call for each line would cost more than all this.
        requests = self.requests
        if method in SPECIAL_METHODS or request_id in requests.by_id or WAIT in line:
            return False
        request = requests.by_id[request_id] = PendingRequest(line, method)
        request.is_sent = True
        request.sendings = 1
        requests.kept_bytes += len(line)
        if requests.kept_bytes > MAX_KEPT_BYTES:
            requests.kept_bytes -= len(line)
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
            self.requests.may_wait = True
        if is_last:
            self._long = None

    def client_ended(self) -> None:
        """Note that the client will send no more; what is in flight is still answered."""
        self.has_client_ended = True

    def _from_client(self, line: bytes, message: Any, *, batched: bool) -> None:
        if isinstance(message, list) and not batched and self.greeting.revision == _BATCHES:
            members = members_of_batch(line)
            if members is not None:
                # The daemon answers each by itself, too.
                for text in members:
                    self._from_client(b"[" + text + b"]\n", parsed(text), batched=True)
                return
        request_id = id_text(message.get("id")) if isinstance(message, dict) else None
        if request_id is None:
            if not isinstance(message, dict) or "id" in message or not self._is_consumed(message, line):
                self._pass_on(line)
        elif "method" not in message and message.keys() & {"result", "error"}:
            self._pass_on(line)
        elif request_id in self.requests.by_id and not self.requests.forget_unnamed(request_id):
            answer = own_messages.refused(request_id, "another request with this id is still in flight")
            self.to_client.append(own_messages.in_batch(answer) if batched else answer)
        else:
            self.greeting.note_first_request(line)
            self._add(request_id, request_of(self, line, message, batched))

    def _is_consumed(self, notification: dict[str, Any], line: bytes) -> bool:
        """Take note of a notification; return whether it goes no further."""
        method, params = notification.get("method"), notification.get("params")
        if method == "notifications/initialized":
            self.greeting.initialized = line
            # The next daemon gets it after the handshake.
            return not self.is_open
        if method != "notifications/cancelled" or not isinstance(params, dict):
            return False
        for request_id in same_id_texts(params.get("requestId")):
            request = self.requests.by_id.get(request_id)
            if request is not None and not isinstance(request, Initialize):
                self.requests.remove(request_id)
                return not (request.is_sent and self.is_open)
        return not self.is_open

    def _add(self, request_id: bytes, request: PendingRequest) -> None:
        requests = self.requests
        requests.add(request_id, request)
        if self.is_open:
            request.start(self, request_id)
            if not request.is_sent:
                requests.keep_waiting(request)
            elif type(request) is PendingRequest:
                requests.bound(request)
        elif request.may_begin_later:
            requests.keep_waiting(request)
        else:
            self._fail(request_id, request, request.unknown())

    def _register(self, long: LongLine, is_last: bool) -> None:
        """Remember the request on a long line, once its id has come."""
        request_id = long.request_id
        if request_id is None:
            self._passes_unknown = self._passes_unknown or (is_last and not long.is_discarded)
        elif not long.is_registered and request_id not in self.requests.by_id:
            long.is_registered = True
            request = PendingRequest(None, long.method)
            self.requests.add(request_id, request)
            request.since = self.now()
            request.is_sent = self.is_open
            if long.is_discarded:
                self._fail(request_id, request, not_executed(self._cause()))

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
            if self.greeting.taken(self, line):
                self._go_live()
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
            message = only_message(parsed(line))
            request_id = None if message is None or "method" in message else id_text(message.get("id"))
            if message is None or request_id is None:
                self.requests.unnamed_errors += message is not None and "error" in message
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
        requests = self.requests
        request = requests.by_id.get(found[1])
        if type(request) is not PendingRequest or not request.is_sent:
            return False
        if request.line is not None:
            requests.kept_bytes -= len(request.line)
        del requests.by_id[found[1]]
        return True

    def _answered(self, request_id: bytes, line: bytes, is_result: bool) -> None:
        request = self.requests.by_id.get(request_id)
        if request is None:
            if self._passes_unknown:
                self.to_client.append(line)
        elif is_result or (data := execution_data(line)) is None or self.has_client_ended:
            request.finish(self, request_id, line, is_result)
        elif data.get("stopping") is True and data.get("executed") is False:
            self._is_closing = True
            if isinstance(request, OwnRequest):
                self.requests.remove(request_id)
            else:
                self.requests.put_back(request)
        elif data.get("executed", False) is not None:
            request.finish(self, request_id, line, is_result)
        elif isinstance(request, OwnRequest):
            self.requests.remove(request_id)
        elif not request.may_repeat():
            self._fail(request_id, request, request.unknown())
        elif self.is_open:
            request.start(self, request_id)
        else:
            self.requests.put_back(request)
            request.sendings += 1

    # ---- connections

    def greet(self) -> None:
        """Begin with a new connection: send what its daemon has to answer before it gets requests."""
        self._is_closing = False
        self.greeting.begin(self)

    def lost(self, unsent: Iterable[bytes] = ()) -> None:
        """Note that the connection is lost: answer what may not be sent again.

        Args:
            unsent: Lines of `to_daemon` that were not handed over as a whole.
        """
        was_live, self.is_live = self.is_live, False
        self.greeting.connection_lost()
        whole = {request_id for line in (*unsent, *self.to_daemon) for request_id in request_ids(line)}
        self.to_daemon.clear()
        if not was_live:
            return
        for request_id, request in list(self.requests.by_id.items()):
            if isinstance(request, OwnRequest):
                self.requests.remove(request_id)
            elif not request.is_sent:
                if not request.may_begin_later:
                    self._fail(request_id, request, request.unknown())
            elif self._long is not None and request_id == self._long.request_id:
                self._fail(
                    request_id, request, not_executed("redstreamd went before it had the whole request.")
                )
            elif self.has_client_ended and isinstance(request, Listen):
                self._fail(request_id, request, request.unknown())
            elif request_id in whole or request.may_repeat():
                request.sendings -= request_id in whole
                self.requests.keep_waiting(request)
            else:
                self._fail(request_id, request, request.unknown())
        if self._long is not None:
            self._long.discard_rest()

    def expire(self) -> None:
        """Answer what has waited for too long."""
        cause = self._cause()
        for request_id, request in self.requests.overdue():
            if self._long is not None and request_id == self._long.request_id:
                self._long.discard()
            if self.greeting.awaits(request_id) and not self.is_live:
                # The daemon may have shaken hands with a client that is told it has not.
                self.greeting.is_refused = True
            self._fail(request_id, request, request.overdue(cause))
        long = self._long
        if long is not None and long.request_id is None and long.since + PATIENCE_SECONDS <= self.now():
            long.discard()

    def _go_live(self) -> None:
        self.is_live = True
        if not self.has_client_ended:
            self.subscriptions.take_up(self)
        for request_id, request in list(self.requests.by_id.items()):
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

    @property
    def has_handshake(self) -> bool:
        """Whether the client has shaken hands."""
        return self.greeting.has_handshake

    def remember_handshake(self, request_id: bytes, line: bytes, answer: bytes) -> None:
        """Keep a handshake for the next connections."""
        self.greeting.remember(request_id, line, answer)

    # ---- within

    def _cause(self) -> str:
        why = f" and refused with: {self.greeting.refusal}" if self.greeting.refusal else ""
        return f"No daemon took it within {PATIENCE_SECONDS:g} s{why}."

    def _fail(self, request_id: bytes, request: PendingRequest, failure: Failure) -> None:
        self.requests.remove(request_id)
        if request.method == CALL:
            line = own_messages.failed_call(request_id, failure, modern=self.greeting.is_modern)
        else:
            line = own_messages.failed_request(request_id, failure)
        self.to_client.append(own_messages.in_batch(line) if request.batched else line)
