"""Tells a client of MCP from a program that speaks another protocol, by the first bytes that it sends.

Such a program is told in its own protocol, where that is short, and its connection is closed: a TLS client
waits for a handshake and sends no newline, and what a web page has a browser send holds lines of JSON.
Without I/O.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_events import Ending
from redstreamd.mcpio.framing import LineSplitter, LongLine

#: U+FEFF in UTF-8, with which some programs begin a text.
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
#: What is looked at of a line that is not whole yet.
_LOOKED_AT: Final = 64
_BLANK: Final = b" \t\r"
#: How an HTTP request begins (RFC 9112, section 3), also the preface of HTTP/2. The URL in the middle can be
#: long, so it is not searched; where it is very long, the version is not awaited.
_HTTP_METHOD: Final = re.compile(rb"[A-Z]{1,32} ")
_PART_OF_METHOD: Final = re.compile(rb"[A-Z]{0,32}\Z")
_HTTP_VERSION: Final = re.compile(rb" HTTP/[0-9.]+\r?\Z")
_HTTP_VERSION_BYTES: Final = 16
_LONG_URL_BYTES: Final = 4_096
#: A command of Redis: an array, and how many strings it has.
_REDIS: Final = re.compile(rb"\*[0-9]")
#: A record of a TLS handshake (RFC 8446, section 5.1).
_TLS: Final = b"\x16\x03"
#: Not text: control characters but for whitespace, and bytes with which no character begins in UTF-8; as
#: second byte a control character, such as the NUL of UTF-16.
_NO_TEXT: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xc1\xf5-\xff]|.[\x00-\x08\x0b\x0c\x0e-\x1f]")

#: The alert "handshake_failure", level fatal (RFC 8446, section 6).
TLS_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x28"
REDIS_ERROR: Final = b"-ERR this is redstreamd, which speaks MCP, not Redis; connect to Redis itself\r\n"


class Foreign(msgspec.Struct, frozen=True):
    """What a client speaks that does not speak MCP.

    Attributes:
        ending: Why its connection ends.
        answer: What it is told.
    """

    ending: Ending
    answer: bytes


class Undecided(msgspec.Struct, frozen=True):
    """More bytes are needed."""


class Text(msgspec.Struct, frozen=True):
    """It may speak MCP.

    Attributes:
        mark_bytes: How many bytes of a byte order mark are before the text.
    """

    mark_bytes: int = 0


def _told(ending: Ending, why: str) -> Foreign:
    message = f"{why}; send JSON-RPC messages in UTF-8, one on each line"
    return Foreign(ending, jsonrpc.error(None, jsonrpc.PARSE_ERROR, message))


_HTTP: Final = _told(Ending.HTTP, "this is not an HTTP server")
_BINARY: Final = _told(Ending.BINARY, "this is not text")


def is_blank(line: bytes | bytearray) -> bool:
    """Return whether a line holds nothing but whitespace."""
    # To strip at one end copies nothing of a long line.
    return not line.lstrip(_BLANK)


def judge_input(splitter: LineSplitter) -> Text | Foreign | Undecided:
    """Return what a connection begins with; drop blank lines and a byte order mark before that.

    As long as it is not decided, there is no line to be taken.
    """
    lines = splitter.lines
    while lines and not isinstance(lines[-1], LongLine) and is_blank(lines[-1]):
        lines.pop()
    line, whole = splitter.first()
    verdict = judge(line, whole=whole)
    if isinstance(verdict, Text):
        splitter.drop(verdict.mark_bytes)
    return verdict


def judge(line: bytes | bytearray, *, whole: bool) -> Text | Foreign | Undecided:
    """Return what a connection begins with.

    Args:
        line: Its first line that is not blank, or what there is of it.
        whole: Whether that is the whole line, or all that is kept of it.
    """
    mark_bytes = len(BYTE_ORDER_MARK) if line.startswith(BYTE_ORDER_MARK) else 0
    text = bytes(line if whole else line[:_LOOKED_AT])[mark_bytes:].lstrip(_BLANK)
    if text.startswith(_TLS):
        return Foreign(Ending.TLS, TLS_ALERT)
    if _REDIS.match(text):
        return Foreign(Ending.REDIS, REDIS_ERROR)
    if _NO_TEXT.match(text) and (whole or len(text) > 1):
        return _BINARY
    if _HTTP_METHOD.match(text):
        if len(line) >= _LONG_URL_BYTES or (whole and _HTTP_VERSION.search(text[-_HTTP_VERSION_BYTES:])):
            return _HTTP
        return Text() if whole else Undecided()
    is_short = len(text) < 2 or BYTE_ORDER_MARK.startswith(text) or _PART_OF_METHOD.match(text)
    if is_short and not whole and len(line) < _LOOKED_AT:
        return Undecided()
    return Text(mark_bytes)
