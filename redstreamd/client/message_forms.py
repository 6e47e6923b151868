"""Recognises JSON-RPC messages on lines: by a fixed form where one matches, by parsing where not.

A bridge looks at every line, and most have one of two forms: the members in front in the order of the
specification, or `method` first and `id` last, as the TypeScript SDK writes them. A match proves what it
claims for any valid JSON: in front nothing can be nested, and a number or a plain text directly before the
last brace can only be a member of the outermost object.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

#: An id that both sides write in one way, so that its text identifies it.
_ID: Final = rb'(0|-?[1-9][0-9]{0,17}|"[ !#-\[\]-~]{0,100}")'
_METHOD: Final = rb'"method"\s*:\s*"([\w/$.-]{1,100})"'
_VERSION: Final = rb'"jsonrpc"\s*:\s*"2\.0"\s*,\s*'

_ID_FIRST: Final = re.compile(rb"\s*\{\s*" + _VERSION + rb'"id"\s*:\s*' + _ID + rb"\s*,\s*" + _METHOD).match
_METHOD_FIRST: Final = re.compile(rb"\{" + _METHOD + rb"\s*,").match
_ID_LAST: Final = re.compile(rb',\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*' + _ID + rb"\s*\}\s*\Z").search
_LAST_BYTES: Final = 180

#: An answer of the daemon; also as a batch of one. The groups are its id, and "result" or "error".
answer_form: Final = re.compile(rb'\[?\{"jsonrpc":"2\.0","id":' + _ID + rb',"(result|error)":').match
#: A notification of the daemon; the group is its method.
notification_form: Final = re.compile(rb'\{"jsonrpc":"2\.0","method":"(notifications/[\w/]{1,80})"').match

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = " \t\r\n"


def request_form(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the id, as JSON text, and the method of a request in one of the fixed forms, else None."""
    found = _ID_FIRST(line)
    if found is not None:
        return found[1], found[2]
    front = _METHOD_FIRST(line)
    if front is not None:
        last = _ID_LAST(line, max(0, len(line) - _LAST_BYTES))
        if last is not None:
            return last[1], front[1]
    return None


def front_form(head: bytes) -> tuple[bytes | None, bytes]:
    """Return the id and the method of a request as far as its beginning shows them; None and empty if not."""
    found = _ID_FIRST(head)
    if found is not None:
        return found[1], found[2]
    front = _METHOD_FIRST(head)
    return None, b"" if front is None else front[1]


def last_id(tail: bytes) -> bytes | None:
    """Return the id at the end of a line; None if there is none."""
    found = _ID_LAST(tail)
    return None if found is None else found[1]


def parsed(line: bytes) -> Any:
    """Return the JSON value on a line; None if there is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def id_text(request_id: object) -> bytes | None:
    """Return the JSON text of a request id as the fixed forms have it; None if it is not a request id."""
    if isinstance(request_id, bool) or not isinstance(request_id, int | str):
        return None
    return json.dumps(request_id).encode()


def same_id_texts(request_id: object) -> tuple[bytes, ...]:
    """Return the texts that name the same request: the daemon does not tell 7 from "7"."""
    text = id_text(request_id)
    if text is None:
        return ()
    return (text, text.strip(b'"')) if isinstance(request_id, str) else (text, b'"%b"' % text)


def members_of_batch(line: bytes) -> list[bytes] | None:
    """Return the text of each message of a batch; None if the line is not a batch with messages."""
    try:
        text = line.decode()
        at = _after_space(text, 0)
        if not isinstance(parsed(line), list):
            return None
        members = []
        at = _after_space(text, at + 1)
        while text[at] != "]":
            end = _DECODER.raw_decode(text, at)[1]
            members.append(text[at:end].encode())
            at = _after_space(text, end)
            if text[at] == ",":
                at = _after_space(text, at + 1)
    except (ValueError, RecursionError, IndexError):
        return None
    return members or None


def encoded(message: Any) -> bytes | None:
    """Return a line that holds `message`; None if JSON has no form for it (a number beyond a double)."""
    try:
        return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (ValueError, RecursionError):
        return None


def parsed_exactly(line: bytes) -> dict[str, Any] | None:
    """Return the object on a line if encoding it again loses nothing; None else.

    What would be lost is a repeated name, whose message the daemon refuses.
    """
    try:
        message = json.loads(line, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def only_message(message: Any) -> dict[str, Any] | None:
    """Return a message, or that of a batch of one; None else."""
    if isinstance(message, list) and len(message) == 1:
        message = message[0]
    return message if isinstance(message, dict) else None


def execution_data(line: bytes) -> dict[str, Any] | None:
    """Return the data of an error that says whether the request was executed; None if it does not."""
    if b'"executed":' not in line:
        return None
    message = only_message(parsed(line))
    error = None if message is None else message.get("error")
    data = error.get("data") if isinstance(error, dict) else None
    return data if isinstance(data, dict) and "executed" in data else None


def request_ids(line: bytes) -> list[bytes]:
    """Return the ids, as JSON text, of the messages on a line."""
    found = request_form(line)
    if found is not None:
        return [found[0]]
    message = parsed(line)
    members = message if isinstance(message, list) else [message]
    ids = [id_text(each.get("id")) for each in members if isinstance(each, dict)]
    return [each for each in ids if each is not None]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members


def _after_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
