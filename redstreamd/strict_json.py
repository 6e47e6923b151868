"""JSON as it is read, and what of it is interchangeable: I-JSON, RFC 7493.

Owns the one decoder: of messages, and of the JSON texts that clients put in the place of a value.
Standard JSON admits values that two programs read differently. They are refused when written, with
the place where they stand, instead of coming back changed.

The decoder is the standard library's rather than msgspec's, which keeps the last of two members with
one name and says nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Final

from redstreamd.errors import BusError, Code

#: The usual bounds of a message: how deep it may be nested, and how many values it may hold.
MAX_NESTING, MAX_VALUES = 100, 100_000

#: RFC 7493 section 2.2: beyond this an IEEE 754 double no longer tells integers apart.
MAX_INTEGER = (1 << 53) - 1

_LAST_TWO_OF_EACH_PLANE = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
#: Surrogates and noncharacters (RFC 7493 section 2.1, Unicode 23.7).
_FORBIDDEN = re.compile(f"[\ud800-\udfff\ufdd0-\ufdef{_LAST_TWO_OF_EACH_PLANE}]")


class DuplicateNames(dict[str, Any]):
    """A JSON object in which a member name occurs twice, as the decoder found it.

    It is a dict, the last value of each name winning, so that only those who care must look.

    Attributes:
        name: The first name that occurs again.
    """

    def __init__(self, members: Iterable[tuple[str, Any]], name: str) -> None:
        """Keep the members and the repeated name."""
        super().__init__(members)
        self.name = name


def object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these members; the `object_pairs_hook` of the one JSON decoder."""
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return DuplicateNames(pairs, repeated)


def decode(text: str) -> Any:
    """Return the value of a JSON text (RFC 8259): NaN and Infinity are refused, a repeated name is marked.

    What I-JSON excludes beyond that is left to `check`: a lone surrogate and a number beyond a double arrive
    as Python's json module gives them.

    Raises:
        json.JSONDecodeError: It is no JSON.
        ValueError: Likewise, or an integer of more digits than Python reads.
        RecursionError: It is nested more deeply than the interpreter's stack holds; see `measured`.
    """
    return _DECODER.decode(text)


def measured(data: bytes, most: int) -> tuple[int, int]:
    """Return about how many values a JSON text in UTF-8 holds, and how deeply they are nested, undecoded.

    Counted are containers and the commas between values, so that a value stands for each of them. Everything
    runs in C, because the text may be 8 MiB of brackets. On valid JSON it is exact, and so it is on the part
    before the first syntax error, which is as far as the decoder gets.

    Args:
        data: The text.
        most: A text of more values is not looked at further: then the number is some number beyond this,
            and the nesting is 0.
    """
    # Without escaped characters every quote begins or ends a string, so every other piece lies outside.
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A string is a value or the name of one; this keeps the pieces from being too many themselves.
    if unescaped.count(b'"') > 4 * most:
        return most + 1, 0
    structure = b"".join(unescaped.split(b'"')[::2]).translate(None, _NOT_STRUCTURE)
    steps = structure.translate(_STEPS, b",")
    values = structure.count(b",") + steps.count(b"\x01")
    if values > most:
        return values, 0
    return values, max(accumulate(memoryview(steps).cast("b")), default=0)


def check(value: Any) -> None:
    """Return if `value`, as decoded from JSON, is I-JSON.

    Raises:
        BusError: INVALID_ARGUMENT, naming the place and what is wrong with it.
    """
    # A stack of our own: the depth of what arrives is not bounded by Python's.
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, current = stack.pop()
        if isinstance(current, str):
            _check_text(path, current)
        elif isinstance(current, dict):
            if isinstance(current, DuplicateNames):
                raise _refused(path, f"the member name {current.name!r} occurs twice in one object")
            for name, member in current.items():
                _check_text(path, name)
                if type(member) is not bool and member is not None:
                    stack.append((f"{path}.{name}" if path else name, member))
        elif isinstance(current, list):
            stack.extend((f"{path}[{index}]", item) for index, item in enumerate(current))
        elif isinstance(current, bool) or current is None:
            continue
        elif isinstance(current, int):
            if not -MAX_INTEGER <= current <= MAX_INTEGER:
                raise _refused(path, "the integer is beyond ±(2**53 - 1), so readers may round it")
        elif not isinstance(current, float) or not math.isfinite(current):
            raise _refused(path, "the number is beyond the range of an IEEE 754 double")


def equal(one: Any, other: Any) -> bool:
    """Tell whether two values, as decoded from JSON, are the same JSON value.

    Numbers are equal by value, however they were written. Python alone takes true for 1.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return bool(one == other)


def _check_text(path: str, text: str) -> None:
    if not text.isascii() and (match := _FORBIDDEN.search(text)) is not None:
        raise _refused(path, f"the text contains U+{ord(match[0]):04X}, which is no character")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=object_from_pairs, parse_constant=_refuse_constant)

_ALL_BYTES: Final = bytes(range(256))
_NOT_STRUCTURE: Final = _ALL_BYTES.translate(None, b"{}[],")
# As signed bytes: an opening bracket is +1, a closing one -1.
_STEPS: Final = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")


def _refused(path: str, why: str) -> BusError:
    place = path.encode("utf-8", "backslashreplace").decode()[:80]
    return BusError(
        Code.INVALID_ARGUMENT,
        f"The value at {place!r} is not I-JSON." if place else "The value is not I-JSON.",
        cause=f"{why[0].upper()}{why[1:]} (RFC 7493).",
        next_step="Give large integers as strings, bytes in base64, and each member name once.",
    )
