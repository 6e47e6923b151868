"""Stream, group and consumer names, and the companion keys of a stream.

The name of each companion key is derived from the stream's, so that an ACL on the stream's prefix covers it
and a cluster keeps it in the stream's slot::

    <stream>:rs:<kind>[:<part>]...[:{<stream>}]

The last part is left out if the stream's name has a hash tag, which the key then inherits
(https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache

from redstreamd.errors import BusError, Code

#: Redis takes keys up to 512 MiB. Names are repeated in calls, log lines and companion keys, so they have a
#: limit, which the setting may lower.
MAX_NAME_BYTES = 512
#: Placeholder owner of the pending entries of a removed consumer.
RELEASED = "_rs.released"

_COMPANION = re.compile(r":rs:(due|dead|tries|group|idem|take|trim|call|reply|quarantine)(?=:|$)")
#: Unicode's category Cc.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAMING_RULE = re.compile(r"[a-z0-9][a-z0-9_-]*(?::[a-z0-9][a-z0-9_-]*){2,}")


class Kind(enum.StrEnum):
    """What a companion key holds."""

    DUE = "due"  #: sorted set per group: "<entry ID>/<attempt>" -> due time in milliseconds
    DEAD = "dead"  #: stream per group: dead-lettered entries
    TRIES = "tries"  #: sorted set per group: history of unfinished entries: how earlier deliveries ended
    GROUP = "group"  #: hash per group: its limit of deliveries and its clock
    IDEMPOTENCY = "idem"  #: string per idempotency key of stream_add: entry IDs and a hash of the body
    TAKE = "take"  #: string per idempotency key of work_take: the entries it leased
    TRIM = "trim"  #: string per stream with many groups: who needed its entries when they were last asked
    CALL = "call"  #: string per call that may be sent twice: what its first sending did; kept for seconds
    REPLY = "reply"  #: stream per principal: replies to its request_reply calls
    QUARANTINE = "quarantine"  #: stream: entries for the stream and its reply streams that wait for a release


def companion_key(stream: str, kind: Kind, *parts: str) -> str:
    """Return the name of a companion key of `stream`.

    Args:
        stream: The stream's name.
        kind: What the key holds.
        parts: Further parts, such as the group. Braces and percent signs in them are percent-encoded, because
            an earlier brace would move the key to another slot.
    """
    key = ":".join((stream, "rs", kind.value, *(_escape(part) for part in parts)))
    return key if has_hash_tag(stream) else f"{key}:{{{stream}}}"


def is_companion_key(key: str) -> bool:
    """Return whether a key was named by `companion_key`."""
    return _COMPANION.search(key) is not None


def is_reply_stream(key: str) -> bool:
    """Return whether `key` is a reply stream of redstreamd's own, not one that a caller named."""
    # No other kind may match: the group of a due set may have a name like a reply stream.
    return set(_COMPANION.findall(key)) == {Kind.REPLY.value}


def judged_by(key: str) -> tuple[str, bool]:
    """Return the stream whose rights decide about a key, and whether the key is a reply stream beside it."""
    beside = _COMPANION.search(key)
    if beside is None or beside.start() == 0:
        return key, False
    return key[: beside.start()], is_reply_stream(key)


@lru_cache(maxsize=1_024)
def written_to(key: str) -> str:
    """Return the stream that the entries of a stream were written to: another one only for dead letters."""
    # No stream that anybody may write to has such a name.
    stream, beside, _ = key.partition(f":rs:{Kind.DEAD.value}:")
    return stream if beside else key


def quarantine_of(stream: str) -> str:
    """Return the key of what waits for a release into a stream, or into a reply stream beside it."""
    return companion_key(judged_by(stream)[0], Kind.QUARANTINE)


def is_quarantine(key: str) -> bool:
    """Return whether a key holds entries that wait for a release."""
    return Kind.QUARANTINE.value in _COMPANION.findall(key)


def reply_stream_owner(key: str) -> str | None:
    """Return the principal whose reply stream `key` is; None if it is no reply stream of redstreamd's own.

    Empty, and so nobody's, if `companion_key` does not make such a name.
    """
    if not is_reply_stream(key):
        return None
    stream, _, owner = key.rpartition(f":rs:{Kind.REPLY.value}:")
    if not has_hash_tag(stream):
        suffix = f":{{{stream}}}"
        if not owner.endswith(suffix):
            return ""
        owner = owner.removesuffix(suffix)
    return owner.replace("%7B", "{").replace("%7D", "}").replace("%25", "%")


def is_reserved(key: str) -> bool:
    """Return whether only redstreamd itself writes to a key. The owner of a reply stream may write to it."""
    return is_companion_key(key) and not is_reply_stream(key)


def has_hash_tag(key: str) -> bool:
    """Return whether a cluster hashes only a part of `key`: the first ``{...}``, if it is not empty."""
    start = key.find("{")
    return start >= 0 and key.find("}", start + 1) > start + 1


def has_stray_braces(stream: str) -> bool:
    """Return whether braces in a stream's name keep its companion keys out of its slot on a cluster."""
    return ("{" in stream or "}" in stream) and not has_hash_tag(stream)


def _escape(part: str) -> str:
    return part.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")


def check_stream(name: str, *, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return `name` if it can name a stream.

    Raises:
        BusError: INVALID_STREAM, saying what is wrong with it.
    """
    return _check(name, Code.INVALID_STREAM, "stream", max_bytes)


def is_stream_name(name: str, *, max_bytes: int = MAX_NAME_BYTES) -> bool:
    """Return whether `check_stream` accepts `name`."""
    return _problem(name, max_bytes) is None


def check_unreserved(name: str) -> None:
    """Refuse keys that only redstreamd itself writes to.

    Raises:
        BusError: INVALID_STREAM.
    """
    if is_reserved(name):
        raise BusError(
            Code.INVALID_STREAM,
            f"The name {name[:80]!r} is reserved.",
            cause="redstreamd uses such names for its own keys: leases, dead letters, records.",
            next_step="Name the stream itself, or choose another name; for dead letters, dead_letter_replay.",
        )


def check_group(name: str, *, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return `name` if it can name a consumer group, else raise INVALID_GROUP."""
    return _check(name, Code.INVALID_GROUP, "group", max_bytes)


def check_consumer(name: str, *, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return `name` if it can name a consumer, else raise INVALID_ARGUMENT."""
    return _check(name, Code.INVALID_ARGUMENT, "consumer", max_bytes)


def naming_warning(stream: str) -> str | None:
    """Return a sentence if a stream's name does not follow ``service:purpose:stream``, else None."""
    # A reply may go to a companion key, whose name nobody chose.
    if _NAMING_RULE.fullmatch(stream) or is_companion_key(stream):
        return None
    return (
        f"The name {stream!r} does not follow service:purpose:stream in lower case, "
        "such as 'billing:invoices:created', which keeps streams of one service together."
    )


def _check(name: str, code: Code, what: str, max_bytes: int) -> str:
    problem = _problem(name, max_bytes)
    if problem is None:
        return name
    raise BusError(
        code,
        f"{name[:80]!r} cannot name a {what}.",
        cause=problem,
        next_step=f"Use 1 to {max_bytes} bytes of UTF-8 without control characters.",
    )


def _problem(name: str, max_bytes: int) -> str | None:
    if not name:
        return "It is empty."
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "It contains a lone surrogate, which UTF-8 cannot express."
    if size > max_bytes:
        return f"It is {size} bytes long."
    if _CONTROL.search(name):
        return "It contains a control character."
    return None
