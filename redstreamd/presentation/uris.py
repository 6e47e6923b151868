"""The URIs of streams, entries, fields and groups.

Each name is one path segment, in which all but RFC 3986's unreserved characters are percent-encoded as UTF-8.
"""

from __future__ import annotations

from urllib.parse import quote

STREAMS = "redstream://streams"
HEALTH = "redstream://health"


def segment(name: str) -> str:
    """Return a name as one path segment."""
    return quote(name, safe="")


def stream_uri(stream: str) -> str:
    """Return the URI of a stream."""
    return f"{STREAMS}/{segment(stream)}"


def group_uri(stream: str, group: str) -> str:
    """Return the URI of a consumer group."""
    return f"{stream_uri(stream)}/groups/{segment(group)}"


def entry_uri(stream: str, entry_id: str) -> str:
    """Return the URI of an entry."""
    return f"{stream_uri(stream)}/entries/{segment(entry_id)}"


def field_uri(entry: str, field: str) -> str:
    """Return the URI of one field's value, given its entry's URI."""
    return f"{entry}/fields/{segment(field)}"
