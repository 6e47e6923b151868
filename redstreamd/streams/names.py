"""Stream, group and consumer names, and the companion keys that lie beside a stream.

Owns the rule by which every other key is derived from a stream's name, so that an ACL on the
stream's prefix covers all of them and a cluster keeps them in the stream's slot.

Everything redstreamd keeps beside a stream is named::

    <stream>:rs:<kind>[:<part>]...[:{<stream>}]

The last part is left out when the stream's name already holds a hash tag, since the key then
inherits it (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).
"""

from __future__ import annotations

import enum
import re

from redstreamd.errors import BusError, Code

#: Redis takes any bytes up to 512 MiB as a key. A name is repeated in every call, log line and
#: companion key, so it is kept to what a person would type; the setting may lower it.
MAX_NAME_BYTES = 512
#: The consumer in whose name entries are pending that a removed consumer held and nobody took yet.
RELEASED = "_rs.released"

_COMPANION = re.compile(r":rs:(due|dead|tries|group|idem|take|call|reply)(?=:|$)")
#: Unicode's category Cc.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NAMING_RULE = re.compile(r"[a-z0-9][a-z0-9_-]*(?::[a-z0-9][a-z0-9_-]*){2,}")


class Kind(enum.StrEnum):
    """What a companion key holds."""

    DUE = "due"  #: sorted set per group: "<entry ID>/<attempt>" -> due time in milliseconds
    DEAD = "dead"  #: stream per group: dead-lettered entries
    TRIES = "tries"  #: sorted set per group: what became of earlier deliveries of entries that failed
    GROUP = "group"  #: hash per group: what was agreed for it, such as max_deliveries; and its clock
    IDEMPOTENCY = "idem"  #: string per idempotency key of stream_add: entry IDs and a hash of the body
    TAKE = "take"  #: string per idempotency key of work_take: the entries it leased
    CALL = "call"  #: string per call that may be sent twice: what its first sending did; lives for seconds
    REPLY = "reply"  #: stream per principal: answers to its request_reply calls


def companion_key(stream: str, kind: Kind, *parts: str) -> str:
    """Return the name of the key of `kind` beside `stream`.

    Args:
        stream: The stream's name.
        kind: What the key holds.
        parts: What it belongs to further, such as the group. Braces and percent signs in a part
            are percent-encoded, because an earlier brace would move the key to another slot.
    """
    key = ":".join((stream, "rs", kind.value, *(_escape(part) for part in parts)))
    return key if has_hash_tag(stream) else f"{key}:{{{stream}}}"


def is_companion_key(key: str) -> bool:
    """Tell whether a key was named by `companion_key`, so that listings can leave it out."""
    return _COMPANION.search(key) is not None


def is_reply_stream(key: str) -> bool:
    """Tell whether `key` is a reply stream of ours, as opposed to one that a caller named."""
    # Of nothing else beside it: the group of a due set may be called like one.
    return set(_COMPANION.findall(key)) == {Kind.REPLY.value}


def is_reserved(key: str) -> bool:
    """Tell whether only redstreamd itself adds to a key. Replies may come from anybody."""
    return is_companion_key(key) and not is_reply_stream(key)


def has_hash_tag(key: str) -> bool:
    """Tell whether a cluster hashes only a part of `key`: the first ``{...}``, if it is not empty."""
    start = key.find("{")
    return start >= 0 and key.find("}", start + 1) > start + 1


def has_stray_braces(stream: str) -> bool:
    """Tell whether no key beside a stream can share its slot on a cluster, because of braces in its name."""
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
    """Tell whether `check_stream` would take `name`, so that listings leave out what no call takes."""
    return _problem(name, max_bytes) is None


def check_unreserved(name: str) -> None:
    """Refuse to add to a key that redstreamd keeps for itself.

    Raises:
        BusError: INVALID_STREAM.
    """
    if is_reserved(name):
        raise BusError(
            Code.INVALID_STREAM,
            f"No stream of yours may be called {name[:80]!r}.",
            cause="redstreamd keeps keys of such names beside the streams: leases, dead letters, records.",
            next_step="Name the stream itself, or choose another name; for dead letters, dead_letter_replay.",
        )


def check_group(name: str, *, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return `name` if it can name a consumer group, else raise INVALID_GROUP."""
    return _check(name, Code.INVALID_GROUP, "group", max_bytes)


def check_consumer(name: str, *, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Return `name` if it can name a consumer, else raise INVALID_ARGUMENT."""
    return _check(name, Code.INVALID_ARGUMENT, "consumer", max_bytes)


def naming_warning(stream: str) -> str | None:
    """Return a sentence if a stream's name departs from ``service:purpose:stream``, else None."""
    # Whoever answers a request adds to a companion key, whose name nobody chose.
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
