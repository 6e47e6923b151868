"""Recognises calls of tools that need no interpretation, for the direct path.

A plain call is a ``tools/call`` of which every member is understood here, and about which the SDK's kernel
could not think otherwise. Anything else is not refused but left to the kernel, so that there is one truth
about errors. A differential test holds both ways to the same answers (tests/mcp_server/test_direct_path.py).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from redstreamd import long_texts
from redstreamd.long_texts import LongText
from redstreamd.mcpio.connection_state import Era
from redstreamd.mcpio.jsonrpc import RequestId, structure_error
from redstreamd.mcpio.limits import Limits
from redstreamd.strict_json import LONG, count, names_are_distinct, text_is_plain

#: Envelopes up to so many bytes are remembered.
_LONGEST_ENVELOPE: Final = 1_024
_ABSENT: Final = msgspec.Raw()
# To look up a member of an enumeration takes as long as to check a line.
_HANDSHAKE: Final = Era.HANDSHAKE


class PlainCall(msgspec.Struct, frozen=True, gc=False):
    """A call of a tool; no name is repeated in it outside of its arguments, but for what `colons` tells.

    Attributes:
        era: Of the request: modern if it has an envelope.
        id: The request's id, as the client wrote it.
        tool: The tool's name, as the client wrote it.
        arguments: The JSON text of its arguments, not yet checked; empty if absent. It has no escaped
            characters but the short ones, and no character that I-JSON excludes. A long text is not copied.
        progress_token: From the client, if it wants progress notifications.
        decoded: The arguments, if they were decoded before the call is served.
        colons: Of a long line: how many colons the arguments have, if no name is repeated in the rest of it;
            else more than they have.
        long_text: A text that was taken out of the arguments, see ``long_texts``.
    """

    era: Era
    id: RequestId
    tool: str
    arguments: bytes | msgspec.Raw
    progress_token: RequestId | None
    decoded: Any = None
    colons: int | None = None
    long_text: LongText | None = None


def decode(line: bytes, limits: Limits) -> PlainCall | None:
    """Return the call on a line; None if the line is anything but a plain call. Never raises.

    Args:
        line: A line without its newline.
        limits: `max_nesting` and `max_values` are applied here.
    """
    size = len(line)
    # Almost every line passes by the first half.
    if (_BACKSLASH in line or not line.isascii()) and not text_is_plain(line):
        return None
    if size >= LONG and (call := _with_long_text(line, limits)) is not None:
        return call
    # So many values are no more than that, wherever they are; of escaped characters it counts a sixteenth.
    is_checked = 49 * size > 16 * limits.max_values
    if is_checked and structure_error(line, limits):
        return None
    try:
        message = _decode(line)
        params = message.params
        request_id, name, raw, meta = message.id, params.name, params.arguments, params.meta
        arguments: bytes | msgspec.Raw
        if size < LONG:
            arguments = bytes(raw)
            length = len(arguments)
        else:
            arguments, length = raw, memoryview(raw).nbytes
        # Each level takes two bytes at least.
        if (
            not is_checked
            and length > 2 * (limits.max_nesting - NESTING_AROUND)
            and most_levels(arguments) > limits.max_nesting - NESTING_AROUND
            and structure_error(line, limits)
        ):
            return None
        if meta is _ABSENT:
            era, token, least = _HANDSHAKE, None, _LEAST
        else:
            text = bytes(meta)
            least = _LEAST_WITH_META + len(text)
            known = _ENVELOPES.get(len(text))
            if known is None or known[0] != text:
                known = _envelope(text)
            _, era, token = known
        least += len(name) + len(_encode(request_id)) + length
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if size >= LONG:
        # Counted once: what is left for the arguments is too much for them if a name is repeated anywhere.
        return PlainCall(era, request_id, name, arguments, token, colons=_colons_left(line, message))
    # Nobody writes these members in fewer bytes. A line that has all of them and no more repeats none.
    if (size != least or not length) and _colons_left(line, message) != arguments.count(b":"):
        return None
    return PlainCall(era, request_id, name, arguments, token)


def is_plain_envelope(meta: Any) -> bool:
    """Return whether the decoded ``_meta`` of a request is an envelope of the modern era and nothing else."""
    try:
        msgspec.convert(meta, _Envelope)
        # What has a lone surrogate is refused, which is for the SDK to say.
        msgspec.json.encode(meta)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


class _Implementation(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    version: str
    title: str | UnsetType = UNSET


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Roots(msgspec.Struct, forbid_unknown_fields=True):
    listChanged: bool | UnsetType = UNSET  # noqa: N815 - its name in MCP


class _Elicitation(msgspec.Struct, forbid_unknown_fields=True):
    form: _Nothing | UnsetType = UNSET
    url: _Nothing | UnsetType = UNSET


class _Capabilities(msgspec.Struct, forbid_unknown_fields=True):
    roots: _Roots | UnsetType = UNSET
    sampling: _Nothing | UnsetType = UNSET
    elicitation: _Elicitation | UnsetType = UNSET


class _Progress(msgspec.Struct, forbid_unknown_fields=True):
    """The `_meta` of a request in the handshake era."""

    progress_token: int | str | UnsetType = msgspec.field(default=UNSET, name="progressToken")


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """The `_meta` of a request in the modern era, which the SDK checks in full."""

    revision: Literal["2026-07-28"] = msgspec.field(name="io.modelcontextprotocol/protocolVersion")
    capabilities: _Capabilities = msgspec.field(name="io.modelcontextprotocol/clientCapabilities")
    client_info: _Implementation | UnsetType = msgspec.field(
        default=UNSET, name="io.modelcontextprotocol/clientInfo"
    )
    progress_token: int | str | UnsetType = msgspec.field(default=UNSET, name="progressToken")


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: msgspec.Raw = _ABSENT
    meta: msgspec.Raw = msgspec.field(default=_ABSENT, name="_meta")


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    jsonrpc: Literal["2.0"]
    id: int | str
    method: Literal["tools/call"]
    params: _Params


_decode: Final = msgspec.json.Decoder(_Message).decode
_encode: Final = msgspec.json.Encoder().encode
_BACKSLASH: Final = ord("\\")
#: The fewest bytes that a call takes without its id, its tool's name, its arguments and its `_meta`: with
#: arguments, and with both. Without arguments it takes less.
_LEAST: Final = len(b'{"jsonrpc":"2.0","id":,"method":"tools/call","params":{"name":"","arguments":}}')
_LEAST_WITH_META: Final = _LEAST + len(b',"_meta":')
#: The message and its parameters are two levels; an envelope is not deeper than eight.
NESTING_AROUND: Final = 8
#: Members that every call has: jsonrpc, id, method, params, name.
_MEMBERS: Final = 5


def _with_long_text(line: bytes, limits: Limits) -> PlainCall | None:
    """Return the call on a line, with its long text decoded by itself; None if that is not possible.

    Args:
        line: Of it `text_is_plain` is true.
        limits: See `decode`.
    """
    place = long_texts.place(line)
    rest = None if place is None else long_texts.marked(line, *place)
    if place is None or rest is None:
        return None
    # Of the text only escaped characters count.
    if _BACKSLASH in line and 3 * len(rest) + len(line) // 16 > limits.max_values:
        return None
    call = decode(rest, limits)
    if call is None or not long_texts.has_mark(bytes(call.arguments)):
        return None
    try:
        text = long_texts.text_at(line, *place)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return PlainCall(call.era, call.id, call.tool, call.arguments, call.progress_token, long_text=text)


def _colons_left(line: bytes, message: _Message) -> int:
    """Return how many colons of a call are left for its arguments."""
    # Each member has one colon, and every other is in a text; a tool's name has none.
    params = message.params
    members = _MEMBERS + (params.arguments is not _ABSENT)
    if params.meta is not _ABSENT:
        members += 1 + bytes(params.meta).count(b":")
    return count(line, b":") - members - (message.id.count(":") if type(message.id) is str else 0)


def most_levels(text: bytes | msgspec.Raw) -> int:
    """Return how many levels of nesting a JSON text has at most: each has a bracket of its own."""
    # To take one character out finds it, which is quicker than to count it.
    text = bytes(text)
    return 2 * len(text) - len(text.replace(b"[", b"")) - len(text.replace(b"{", b""))


#: What was an envelope, the last of each length, with its era and its progress token: each client sends the
#: same with every request, and to compare takes less than to hash.
_ENVELOPES: Final[dict[int, tuple[bytes, Era, RequestId | None]]] = {}


def _envelope(text: bytes) -> tuple[bytes, Era, RequestId | None]:
    """Return the `_meta` of a request, its era and its progress token.

    Raises:
        msgspec.MsgspecError: It has members that are not understood here.
        ValueError: It names a member twice.
    """
    is_modern = b'"io.modelcontextprotocol/' in text
    meta: _Envelope | _Progress
    meta = (
        msgspec.json.decode(text, type=_Envelope) if is_modern else msgspec.json.decode(text, type=_Progress)
    )
    if not names_are_distinct(text, meta):
        raise ValueError("a member is named twice")
    token = None if meta.progress_token is UNSET else meta.progress_token
    known = text, Era.MODERN if is_modern else _HANDSHAKE, token
    if len(text) <= _LONGEST_ENVELOPE:
        _ENVELOPES[len(text)] = known
    return known
