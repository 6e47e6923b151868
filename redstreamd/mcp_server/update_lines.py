"""The messages that tell of a change, and the cursors of subscriptions, as they are on the wire.

All subscribers share the bytes of an update; those of a listen differ in its ID only.

A request to subscribe or listen may have `CURSORS_KEY` in its `_meta`: an object, name -> cursor, of what the
client was told over an earlier connection; it may be empty. Then changes since these are notified, and the
answer to the request, the acknowledgement and the notifications carry the same member with the cursors that
the client knows from then on. The names are URIs, and `LIST` for the list. A client without it gets none,
since some accept nothing but an empty object as an answer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import mcp_types
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from redstreamd.mcp_server.listing_changes import list_changed
from redstreamd.mcpio import jsonrpc

#: Stands for the list of resources among URIs; it is not a valid one.
LIST: Final = "resources/list"
#: What has a list among the names of notifications; no URI is one of them.
_LISTS: Final = {f"{kind}/list": kind for kind in ("resources", "tools", "prompts")}
#: The member of `_meta` with cursors; `client.subscription_memory` has the other side.
CURSORS_KEY: Final = "redstreamd/cursors"


@functools.lru_cache(maxsize=256)
def update_line(name: str, version: str | None) -> bytes:
    """Return the line that notifies a connection of the handshake era; a version is told as a cursor."""
    return _line(name, version, {})


@functools.lru_cache(maxsize=256)
def listen_line(name: str, version: str | None) -> tuple[bytes, bytes]:
    """As `update_line`, of a listen: what is before and what is after its ID."""
    line = _line(name, version, {SUBSCRIPTION_ID_META_KEY: 0})
    before, key, after = line.partition(b'"%b":' % SUBSCRIPTION_ID_META_KEY.encode())
    return before + key, after[1:]


def _line(name: str, version: str | None, meta: dict[str, Any]) -> bytes:
    """As the SDK writes it."""
    if version is not None:
        meta[CURSORS_KEY] = {name: version}
    params: dict[str, Any] = {"_meta": meta} if meta else {}
    kind = _LISTS.get(name)
    if kind is not None:
        return list_changed(kind, params or None)
    return jsonrpc.notification("notifications/resources/updated", params | {"uri": name})


def given_cursors(meta: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return the cursors that a request names; None if it has no such member.

    Raises:
        MCPError: INVALID_PARAMS.
    """
    if meta is None or CURSORS_KEY not in meta:
        return None
    cursors = meta[CURSORS_KEY]
    if not isinstance(cursors, dict) or not all(isinstance(each, str) for each in cursors.values()):
        why = f'_meta["{CURSORS_KEY}"] must be an object whose values are strings'
        raise MCPError(mcp_types.INVALID_PARAMS, why)
    return cursors
