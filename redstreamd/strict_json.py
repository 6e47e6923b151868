"""The JSON decoder, for messages and for JSON texts in arguments, and the check for I-JSON (RFC 7493).

JSON allows values that programs read differently. They are refused in what clients write, with their place,
instead of being returned changed. msgspec silently keeps the last of two members of a name. It is used only
where the number of colons shows that it lost none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from itertools import chain
from typing import Any, AnyStr, Final, TypeAlias

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import shortened

#: The default limits of a message.
MAX_NESTING, MAX_VALUES = 100, 12_000

#: The largest integer that an IEEE 754 double represents exactly with its neighbours (RFC 7493 section 2.2).
MAX_INTEGER = (1 << 53) - 1

_LAST_TWO_OF_EACH_PLANE = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
#: Surrogates and noncharacters (RFC 7493 section 2.1, Unicode 23.7).
_FORBIDDEN = re.compile(f"[\ud800-\udfff\ufdd0-\ufdef{_LAST_TWO_OF_EACH_PLANE}]")
#: The noncharacters in UTF-8; each begins with a byte that is found fast.
_LAST_OF_A_PLANE = re.compile(rb"\xbf(?:(?<=\xef\xbf)|(?<=[\xf0-\xf4][\x8f\x9f\xaf\xbf]\xbf))[\xbe\xbf]")
_IN_THE_MIDDLE = re.compile(rb"\xef\xb7[\x90-\xaf]")


class DuplicateNames(dict[str, Any]):
    """A JSON object with a repeated member name; as a dict it has the last value of each name.

    Attributes:
        name: The first repeated name.
    """

    def __init__(self, members: Iterable[tuple[str, Any]], name: str) -> None:
        """Keep the members and the repeated name."""
        super().__init__(members)
        self.name = name


def object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these members; the decoder's `object_pairs_hook`."""
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    return DuplicateNames(pairs, repeated)


def decode(text: str | bytes) -> Any:
    """Decode a JSON text (RFC 8259), or one in UTF-8; objects with repeated names become `DuplicateNames`.

    What else I-JSON excludes is left to `check`.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
        json.JSONDecodeError: It is not JSON.
        ValueError: It has NaN or Infinity, or an integer of more digits than Python reads.
        RecursionError: It is nested more deeply than the interpreter's stack allows; see
            `json_cost.measure_structure`.
    """
    # msgspec takes a fifth of the time. What it refuses, and where a name may be repeated, is for the other.
    # Each colon in the text is one of what is decoded, unless it was escaped.
    try:
        data = text.encode() if isinstance(text, str) else text
        value = msgspec.json.decode(data)
        if b"\\u003" not in data and count(data, b":") == colons(value, data):
            return value
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    return _DECODER.decode(text if isinstance(text, str) else text.decode())


def what_is_wrong(error: json.JSONDecodeError) -> str:
    """Return what is no JSON, and where."""
    # Some of the decoder's messages end in the word themselves.
    return f"{error.msg.removesuffix(' at')} at character {error.pos}"


def text_is_plain(data: bytes) -> bool:
    r"""Return whether a JSON text in UTF-8 has no ``\u`` escape, and no character that I-JSON excludes.

    Then the colons in it are those of its members and those of its strings, as they are decoded. That it is
    UTF-8 is left to whoever decodes it.
    """
    # One character is found many times as fast as two.
    if b"\\" in data and b"\\u" in data:
        return False
    return data.isascii() or not _has_noncharacter(data)


def is_allowed(text: str) -> bool:
    """Return whether a text has no character that I-JSON excludes."""
    if text.isascii():
        return True
    try:
        # In UTF-8 they are looked for many bytes at a time, in a text one by one.
        return not _has_noncharacter(text.encode())
    except UnicodeEncodeError:
        return False


def _has_noncharacter(data: bytes) -> bool:
    """Return whether a text in UTF-8, which has no surrogates, has a noncharacter."""
    # One character is found many times as fast as two.
    return (b"\xbf" in data and _LAST_OF_A_PLANE.search(data) is not None) or (
        b"\xef" in data and _IN_THE_MIDDLE.search(data) is not None
    )


def names_are_distinct(data: bytes, decoded: Any) -> bool:
    """Return whether no object of a plain JSON text names a member twice.

    A decoder that keeps the last of two members loses the colon of the other.

    Args:
        data: The text, for which `text_is_plain` returned True.
        decoded: What msgspec decoded it to, with all its members.
    """
    return count(data, b":") == colons(decoded, data)


def count(text: AnyStr, character: AnyStr) -> int:
    """Return how often a character occurs; quicker than `text.count` in a long text that has it rarely."""
    if len(text) < LONG:
        return text.count(character)
    # To find one compares many characters at a time, to count compares each.
    found, at, most = 0, text.find(character), _SOME if len(text) >= 16 * LONG else _FEW
    while at >= 0 and found < most:
        found += 1
        at = text.find(character, at + 1)
    return found if at < 0 else found + text.count(character, at)


def colons(decoded: Any, text: bytes | msgspec.Raw) -> int:
    """Return how many colons the JSON text of a value has.

    Args:
        decoded: The value, as msgspec decoded it.
        text: The text that it was decoded from, which may have more.
    """
    if len(memoryview(text)) >= LONG:
        # Few texts, and long ones: their characters are not looked at one by one.
        found, steps = 0, 0
        stack = [msgspec.to_builtins(decoded)]
        while stack and steps < (_SOME if len(memoryview(text)) >= 16 * LONG else _FEW):
            steps += 1
            value = stack.pop()
            if type(value) is str:
                found += count(value, ":")
            elif type(value) is dict:
                found += len(value)
                stack.extend(value)
                stack.extend(value.values())
            elif type(value) is list:
                stack.extend(value)
        if not stack:
            return found
    return _ENCODER.encode(decoded).count(b":")


def check(value: Any) -> None:
    """Check that `value`, as decoded from JSON, is I-JSON.

    Raises:
        BusError: INVALID_ARGUMENT, with the place and the reason.
    """
    if not _is_allowed_value(value):
        _find_refused(value)


def _is_allowed_value(value: Any) -> bool:
    """Return whether `check` has nothing to refuse; layer by layer, in loops that run in C."""
    layer = [value]
    while layer:
        kinds = set(map(type, layer))
        if not kinds <= _KINDS:
            return False
        texts = [each for each in layer if type(each) is str] if str in kinds else []
        if int in kinds:
            integers = [each for each in layer if type(each) is int]
            if max(integers) > MAX_INTEGER or min(integers) < -MAX_INTEGER:
                return False
        if float in kinds and not all(math.isfinite(each) for each in layer if type(each) is float):
            return False
        following: list[Any] = []
        if list in kinds:
            following.extend(chain.from_iterable(each for each in layer if type(each) is list))
        if dict in kinds:
            objects = [each for each in layer if type(each) is dict]
            texts.extend(chain.from_iterable(objects))
            following.extend(chain.from_iterable(map(dict.values, objects)))
        if not all(map(str.isascii, texts)) and not is_allowed("".join(texts)):
            return False
        layer = following
    return True


def _find_refused(value: Any) -> None:
    """Raise what `check` raises, if there is anything to refuse."""
    # Not recursive: the value may be nested more deeply than Python's stack allows.
    stack: list[tuple[_Place, Any]] = [(None, value)]
    while stack:
        place, current = stack.pop()
        if isinstance(current, str):
            _check_text(place, current)
        elif isinstance(current, dict):
            if isinstance(current, DuplicateNames):
                why = f"the member name {shortened(current.name)!r} occurs twice in one object"
                raise _refused(place, why)
            for name, member in current.items():
                _check_text(place, name)
                if type(member) is not bool and member is not None:
                    stack.append(((place, name), member))
        elif isinstance(current, list):
            stack.extend(((place, index), item) for index, item in enumerate(current))
        elif isinstance(current, bool) or current is None:
            continue
        elif isinstance(current, int):
            if not -MAX_INTEGER <= current <= MAX_INTEGER:
                raise _refused(place, "the integer is beyond ±(2**53 - 1), so readers may round it")
        elif not isinstance(current, float) or not math.isfinite(current):
            raise _refused(place, "the number is beyond the range of an IEEE 754 double")


def check_names(value: Any) -> None:
    """Check that no object in `value`, as `decode` returned it, names a member twice.

    Raises:
        BusError: INVALID_ARGUMENT, with the place of the member.
    """
    if (path := repeated_name(value)) is not None:
        raise _refused(None, f"the member {path!r} is named twice")


def repeated_name(value: Any, *, but: object = None) -> str | None:
    """Return the place of a member that an object names twice, such as ``params._meta.a``, or None.

    Args:
        value: As `decode` returned it.
        but: An object or array in it that is not looked at.
    """
    stack: list[tuple[_Place, Any]] = [(None, value)]
    while stack:
        place, current = stack.pop()
        if isinstance(current, DuplicateNames):
            return _path((place, current.name))
        members = current.items() if isinstance(current, dict) else enumerate(current)
        stack.extend(
            ((place, step), member)
            for step, member in members
            if isinstance(member, dict | list) and member is not but
        )
    return None


def equal(one: Any, other: Any) -> bool:
    """Return whether two decoded values are the same JSON value.

    Numbers are compared by value. Unlike in Python, true is not 1.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    return bool(one == other)


#: Where a value is: the container's place, and the name or index there. A path would repeat long names for
#: each value beside them.
_Place: TypeAlias = "tuple[_Place, str | int] | None"


def _path(place: _Place) -> str:
    steps: list[str] = []
    while place is not None:
        place, step = place
        steps.append(f"[{step}]" if isinstance(step, int) else f".{shortened(step)}")
    return shortened("".join(reversed(steps)).removeprefix("."))


def _check_text(place: _Place, text: str) -> None:
    if not is_allowed(text) and (match := _FORBIDDEN.search(text)) is not None:
        raise _refused(place, f"the text contains U+{ord(match[0]):04X}, which is no character")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


#: The types of what decoders make of JSON, but for `DuplicateNames`.
_KINDS: Final = frozenset({str, int, float, bool, type(None), list, dict})

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = json.JSONDecoder(object_pairs_hook=object_from_pairs, parse_constant=_refuse_constant)

#: From so many characters on a text is long; fewer occurrences than this are few.
LONG: Final = 16_384
_FEW: Final = 64
#: Values of a very long text that are looked at one by one.
_SOME: Final = 1_000


def _refused(place: _Place, why: str) -> BusError:
    path = _path(place).encode("utf-8", "backslashreplace").decode()
    return BusError(
        Code.INVALID_ARGUMENT,
        f"The value at {path!r} is not I-JSON." if path else "The value is not I-JSON.",
        cause=f"{why[0].upper()}{why[1:]} (RFC 7493).",
        next_step="Give large integers as strings, bytes in base64, and each member name once.",
    )
