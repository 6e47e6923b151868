"""Lease tokens: proof of which attempt at which entries a caller holds.

A token names the stream, group, consumer, principal, the (entry ID, attempt) pairs, the time of the take, the
limit of deliveries and the length of the lease. So the daemon keeps no table of leases, and any daemon that
knows the key can check it. It is authenticated, not secret: HMAC-SHA256, truncated to 128 bits (RFC 2104
section 5), in URL-safe base64, because agents copy it as text.

The format is that of the first release: a tuple of seven, whose last item is a flat list of triples, each the
two parts of an entry ID and its attempt. If the first entry occurs several times, its last triple holds the
attempt. Of those before it, the first holds the length of the lease in milliseconds, and the second, if any,
the lease's own limit of deliveries. The first release uses the last triple of an entry, too, so it can read
such a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting

_PREFIX = "lease2."
_MAC_BYTES = 16
_BLOCK_BYTES = 64
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_encode = msgspec.msgpack.Encoder().encode
#: A token of the largest take (100 entries) is about 2 KiB; nothing longer is worth decoding.
_MAX_CHARACTERS = 16_384
#: Tokens that are remembered, of so many entries at most: about 3 MiB.
_MAX_REMEMBERED, _MAX_REMEMBERED_ENTRIES = 1_024, 20
#: Characters of a wrong token that an error shows.
_SHOWN = 24


class Lease(msgspec.Struct, frozen=True, gc=False):
    """Content of a lease token.

    Attributes:
        stream: The stream of the entries.
        group: Their consumer group.
        consumer: Who took them.
        principal: On whose behalf.
        attempts: Entry ID -> attempt, the fencing token.
        taken_at: When the last entry was delivered, or later, in milliseconds by the server's clock. A later
            delivery belongs to another lease, even if the group was set back and counts from 1 again.
        max_deliveries: The limit of deliveries at the time of the take; 0 for never. The first release uses
            it.
        length_ms: The original length of the lease in milliseconds; None if the token does not tell it.
        own_limit: The lease's own limit of deliveries, which allows more than the group's did; None: it has
            the group's. Only with a length.
    """

    stream: str
    group: str
    consumer: str
    principal: str
    attempts: dict[str, int]
    taken_at: int
    max_deliveries: int
    length_ms: int | None = None
    own_limit: int | None = None

    @property
    def least_limit(self) -> int | None:
        """The limit of deliveries that applies if it allows more than the group's; None: there is none.

        A token of the first release does not tell whose its limit is.
        """
        return self.max_deliveries if self.length_ms is None else self.own_limit


def not_a_lease(token: str) -> BusError:
    """Return the error for a token that was not signed with the key, or that is another principal's."""
    shown = token if len(token) <= _SHOWN else token[:_SHOWN] + "…"
    return BusError(
        Code.INVALID_ARGUMENT,
        f"lease={shown!r} is not a lease of this bus.",
        cause="It was changed on the way, or comes from a daemon with another lease key.",
        next_step="Pass the `lease` of the work_take answer exactly; "
        "if it is gone, call work_take with resume: true for a new one. Daemons that share a Redis read each "
        f"other's leases if all have the same key: {setting('daemon.lease_key_file')}.",
    )


class LeaseKey:
    """The key that authenticates lease tokens. Hosts that share a Redis may share one key file."""

    # Invariant: _signed has tokens that this key signed, with what `read` returns for them.
    def __init__(self, key: bytes) -> None:
        """Use `key`, at least 16 bytes."""
        # Both hashes of RFC 2104, section 2, after their block of the key, which is the same for every token.
        # A copy costs less than half of what `hmac` does.
        block = (key if len(key) <= _BLOCK_BYTES else hashlib.sha256(key).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        # Most tokens are read once, soon after they were signed, and forgotten then; else the oldest first.
        self._signed: dict[str, Lease] = {}

    def forget(self) -> None:
        """Forget the tokens that were signed; they are authenticated when they are read."""
        self._signed.clear()

    def sign(self, lease: Lease) -> str:
        """Return the token of a lease."""
        numbers: list[int] = []
        for entry_id, attempt in lease.attempts.items():
            milliseconds, _, sequence = entry_id.partition("-")
            numbers += (int(milliseconds), int(sequence), attempt)
        if lease.length_ms is not None:
            first = numbers[0], numbers[1]
            own = () if lease.own_limit is None else (*first, lease.own_limit)
            numbers[:0] = (*first, lease.length_ms, *own)
        who = lease.stream, lease.group, lease.consumer, lease.principal
        body = _encode((*who, lease.taken_at, lease.max_deliveries, numbers))
        text = binascii.b2a_base64(body + self._hmac(body)[:_MAC_BYTES], newline=False)
        token = _PREFIX + text.translate(_URL_SAFE).rstrip(b"=").decode("ascii")
        # A limit of its own is only in a token that tells the length, too.
        if len(lease.attempts) <= _MAX_REMEMBERED_ENTRIES and lease.length_ms is not None:
            if len(self._signed) >= _MAX_REMEMBERED:
                del self._signed[next(iter(self._signed))]
            self._signed[token] = lease
        return token

    def read(self, token: str) -> Lease:
        """Return the lease of a token.

        Raises:
            BusError: INVALID_ARGUMENT if it was not signed with this key.
        """
        signed = self._signed.pop(token, None)
        if signed is not None:
            return signed
        body = self._verified(token)
        if body is None:
            raise not_a_lease(token)
        stream, group, consumer, principal, taken_at, max_deliveries, numbers = msgspec.msgpack.decode(
            body, type=tuple[str, str, str, str, int, int, tuple[int, ...]]
        )
        triples = list(zip(*[iter(numbers)] * 3, strict=True))
        # Later triples of an entry replace earlier ones.
        attempts = {f"{milliseconds}-{sequence}": attempt for milliseconds, sequence, attempt in triples}
        terms = [number for *_, number in triples[: len(triples) - len(attempts)]]
        length_ms, own_limit, *_ = (*terms, None, None)
        return Lease(
            stream, group, consumer, principal, attempts, taken_at, max_deliveries, length_ms, own_limit
        )

    def _verified(self, token: str) -> bytes | None:
        if not token.startswith(_PREFIX) or len(token) > _MAX_CHARACTERS or not token.isascii():
            return None
        text = token.removeprefix(_PREFIX)
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        return body if hmac.compare_digest(mac, self._hmac(body)[:_MAC_BYTES]) else None

    def derive(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for another purpose. No token's body is equal to a text."""
        return self._hmac(purpose.encode())

    def _hmac(self, body: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(body)
        outer.update(inner.digest())
        return outer.digest()
