"""A connection to a daemon that asks for TLS or a token, as a plain socket.

A thread carries the bytes between one end of a socket pair and the network, so that all that uses a
connection polls and reads a socket as ever. Imported only where it is needed, because ssl is slow to import.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from typing import Final

from redstreamd.addresses.address_syntax import Address
from redstreamd.client.discovery import Access, AccessError
from redstreamd.client.own_messages import NOT_NOW
from redstreamd.client.reattaching import CONNECT_SECONDS, tune

#: What may wait to be written to one side before no more is read from the other.
MAX_QUEUED_BYTES: Final = 256 * 1024
#: For what is to be written yet when our user has closed its end.
CLOSE_SECONDS: Final = 1.0
#: For our user to close its end when the daemon has ended.
LAST_SECONDS: Final = 5.0
_READ_BYTES: Final = 65536
_MAX_TOKEN_BYTES: Final = 1024
#: What helps against an error of X509_STORE_CTX_get_error(3), where it is neither the CA nor the name.
_STEPS: Final = {
    9: "check the clocks of both hosts",
    10: "renew it on the daemon's host, or correct this host's clock",
}
_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


def open_tunnel(place: Address, access: Access) -> socket.socket:
    """Connect, and return the connection once the handshake is over and the token is sent; blocking.

    Raises:
        OSError: Nobody listens there, or it does not answer.
        AccessError: The files cannot be used, or the daemon cannot be trusted, or it refuses us.
    """
    wire = _Wire(place, access)
    wire.connect()
    ours, inner = socket.socketpair()
    threading.Thread(target=_carry, args=(wire, inner)).start()
    return ours


def begin_tunnel(place: Address, access: Access) -> socket.socket:
    """Return a connection that is being made; it ends at once if that fails.

    Why certificates or tokens were refused is its last line, as a daemon would say why it cannot serve.
    """
    ours, inner = socket.socketpair()

    def run() -> None:
        try:
            wire = _Wire(place, access)
            wire.connect()
        except AccessError as refused:
            with contextlib.suppress(OSError):
                inner.sendall(_error_line(str(refused)))
            inner.close()
        except OSError:
            inner.close()
        else:
            _carry(wire, inner)

    threading.Thread(target=run).start()
    return ours


class _Wire:
    """The side of the network: a socket, and TLS without I/O of its own.

    Attributes:
        raw: The socket; not blocking once it is connected.
        queued: What is to be written to it.
        has_ended: Whether the daemon sends nothing more.
        refusal: Why it has ended TLS, as it said; empty if it did not.
    """

    def __init__(self, place: Address, access: Access) -> None:
        """Read the files.

        Raises:
            AccessError: One cannot be used.
        """
        self._place = place
        self._token = None if access.token_file is None else _token_line(access.token_file)
        self._tls: ssl.SSLObject | None = None
        if place.kind == "tls":
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            name = access.server_name or place.host
            self._tls = _context(access).wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.queued = bytearray()
        self.has_ended = False
        self.refusal = ""

    def connect(self) -> None:
        """Connect, shake hands, and send the token.

        Raises:
            OSError: Nobody listens there, or it does not answer.
            AccessError: The daemon cannot be trusted, or does not speak TLS.
        """
        place = self._place
        self.raw = socket.create_connection((place.host, place.port), timeout=CONNECT_SECONDS)
        try:
            tune(self.raw)
            if self._tls is not None:
                self._shake_hands(self._tls)
            if self._token is not None:
                self.put(self._token)
                self.raw.sendall(self.queued)
                self.queued.clear()
            self.raw.setblocking(False)
        except ssl.SSLError as error:
            self.raw.close()
            raise AccessError(self._explained(error)) from None
        except BaseException:
            self.raw.close()
            raise

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self.raw.sendall(self._outgoing.read())
                if data := self.raw.recv(_READ_BYTES):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                # The alert: so the daemon's log has the reason, too.
                with contextlib.suppress(OSError):
                    self.raw.sendall(self._outgoing.read())
                raise
            else:
                self.raw.sendall(self._outgoing.read())
                return

    def _explained(self, error: ssl.SSLError) -> str:
        place = f"{self._place.host}:{self._place.port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            step = _STEPS.get(error.verify_code, "name its CA with --ca-file, or its name with --server-name")
            return f"the certificate of {place} is not trusted: {error.verify_message}; {step}"
        reason = (error.reason or "the connection was closed").lower().replace("_", " ")
        return f"{place} does not take TLS from this client: {reason}"

    def put(self, data: bytes) -> None:
        """Queue bytes."""
        if self._tls is None:
            self.queued += data
        else:
            self._tls.write(data)
            self.queued += self._outgoing.read()

    def write(self) -> None:
        """Write what is queued, as far as it is taken."""
        with contextlib.suppress(BlockingIOError):
            del self.queued[: self.raw.send(self.queued)]

    def end(self) -> None:
        """Say that no more comes; what is queued is written before."""
        if self._tls is not None:
            # The daemon's answers are read on; without TLS see `shut_down`.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self.queued += self._outgoing.read()

    def shut_down(self) -> None:
        """Shut down our side of a connection without TLS, once all is written."""
        if self._tls is None and not self.queued:
            with contextlib.suppress(OSError):
                self.raw.shutdown(socket.SHUT_WR)

    def read(self) -> bytes:
        """Return what has arrived; empty if there is nothing yet, or nothing more (`has_ended`)."""
        try:
            data = self.raw.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self.has_ended = True
        if self._tls is None:
            return data
        self._incoming.write(data)
        if not data:
            self._incoming.write_eof()
        parts = []
        try:
            while part := self._tls.read(_READ_BYTES):
                parts.append(part)
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            # An alert, or an end that TLS does not know of.
            self.has_ended = True
            if "ALERT" in (error.reason or ""):
                self.refusal = self._explained(error)
        # A message of TLS's own may be due, such as an update of keys.
        self.queued += self._outgoing.read()
        return b"".join(parts)


def _carry(wire: _Wire, inner: socket.socket) -> None:
    """Carry bytes both ways until the daemon, or our user, has ended and got all."""
    inner.setblocking(False)
    with inner, wire.raw, contextlib.suppress(OSError):
        _Carrier(wire, inner).run()
        # Our user gets what was said last before it notices, by sending, that nobody reads.
        inner.shutdown(socket.SHUT_WR)
        inner.settimeout(LAST_SECONDS)
        while inner.recv(_READ_BYTES):
            pass


class _Carrier:
    def __init__(self, wire: _Wire, inner: socket.socket) -> None:
        self._wire = wire
        self._inner = inner
        self._to_inner = bytearray()
        # Whether our user sends more, and whether it still reads.
        self._sends = self._reads = True
        self._ends_at = float("inf")

    def run(self) -> None:
        wire, inner = self._wire, self._inner
        # What came with the end of the handshake.
        self._read_wire()
        while not self._is_over():
            poll = select.poll()
            mask = select.POLLIN if self._sends and len(wire.queued) < MAX_QUEUED_BYTES else 0
            mask |= select.POLLOUT if self._to_inner else 0
            if self._reads:
                poll.register(inner, mask)
            mask = select.POLLIN if len(self._to_inner) < MAX_QUEUED_BYTES and not wire.has_ended else 0
            mask |= select.POLLOUT if wire.queued else 0
            poll.register(wire.raw, mask)
            left = self._ends_at - time.monotonic()
            for number, events in poll.poll(None if left == float("inf") else max(0.0, left) * 1000):
                if number == inner.fileno():
                    self._on_inner(events)
                elif events & ~select.POLLOUT and not wire.has_ended:
                    self._read_wire()
            if wire.queued:
                wire.write()
            if not self._sends:
                wire.shut_down()

    def _read_wire(self) -> None:
        self._to_inner += self._wire.read()
        if self._wire.has_ended and self._wire.refusal:
            self._to_inner += _error_line(self._wire.refusal)

    def _is_over(self) -> bool:
        if self._wire.has_ended:
            return not self._to_inner or not self._reads
        return not self._reads and (not self._wire.queued or time.monotonic() >= self._ends_at)

    def _on_inner(self, events: int) -> None:
        if events & select.POLLOUT and self._to_inner:
            del self._to_inner[: self._inner.send(self._to_inner)]
        if self._sends and events & ~select.POLLOUT:
            data = self._inner.recv(_READ_BYTES)
            if data:
                self._wire.put(data)
                return
            self._sends = False
            self._wire.end()
        if events & _GONE:
            self._reads = False
            self._ends_at = time.monotonic() + CLOSE_SECONDS


def _error_line(message: str) -> bytes:
    """Return an error without an id, as of a daemon that cannot serve."""
    error = {"code": NOT_NOW, "message": message}
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode() + b"\n"


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise AccessError(f"--ca-file {access.ca_file} cannot be used: {_told(error)}") from None
    if access.certificate_file is None:
        return context

    def passphrase() -> bytes:
        raise AccessError(f"the key of {access.certificate_file} has a passphrase; it must have none")

    try:
        context.load_cert_chain(access.certificate_file, access.key_file, password=passphrase)
    except (OSError, ssl.SSLError) as error:
        files = " and ".join(filter(None, (access.certificate_file, access.key_file)))
        raise AccessError(f"the certificate and key in {files} cannot be used: {_told(error)}") from None
    return context


def _told(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "they are not PEM").lower().replace("_", " ")
    return error.strerror or type(error).__name__


def _token_line(path: str) -> bytes:
    """Return the line with the token, which no error repeats."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is slow to import
            token = file.readline(_MAX_TOKEN_BYTES + 2).strip()
    except OSError as error:
        raise AccessError(f"--token-file {path} cannot be used: {_told(error)}") from None
    if not token or not token.isascii():
        raise AccessError(f"--token-file {path} cannot be used: its first line is no token")
    params = {"token": token.decode("ascii")}
    message = {"jsonrpc": "2.0", "method": "redstreamd/token", "params": params}
    return json.dumps(message).encode() + b"\n"
