"""What it costs to decode a JSON text, found before it is decoded."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from redstreamd.strict_json import LONG

#: Strings, and backslashes before a quote, that are looked for one by one in a long text.
_FEW: Final = 64
#: Bytes in which a character is counted at a time: 0.7 ms if each is it.
_COUNTED: Final = 65_536
#: As many as a double or an integer of 64 bits has at the most, with its sign, point and exponent.
_DIGITS: Final = 24
_WHITESPACE: Final = b" \t\r\n"
_ALL_BYTES: Final = bytes(range(256))
_NOT_STRUCTURE: Final = _ALL_BYTES.translate(None, b"{}[],:")
# As signed bytes: an opening bracket is +1, a closing one -1.
_STEPS: Final = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")


def measure_structure(data: bytes, most: int) -> tuple[int, int]:
    """Return what it costs to decode a JSON text in UTF-8, in values, and its nesting, without decoding it.

    Decoding, checking and storing a number takes about 0.3 µs. An array or object counts as three values, a
    member as three more than its value, sixteen escaped characters as one. So do sixteen digits of a number,
    but for its first 24: Python's time for an integer grows with their square. So a text of several MiB costs
    little, and a message within its limit takes about the same time whatever it is made of.

    All loops run in C, because the text may be megabytes of brackets. The nesting is exact up to the first
    syntax error, which is as far as the decoder gets.

    Args:
        data: The text.
        most: With a greater cost than this, the number returned is some greater one, and the nesting is 0.
    """
    escapes = _count_up_to(data, b"\\", 16 * most) // 16
    if escapes > most:
        return escapes, 0
    structure = _outside_of_texts(data, most)
    if structure is None:
        return most + 1, 0
    outside, structure = structure, structure.translate(None, _NOT_STRUCTURE)
    steps = structure.translate(_STEPS, b",:")
    commas, names, openings = structure.count(b","), structure.count(b":"), steps.count(b"\x01")
    cost = escapes + commas + 3 * (names + openings)
    # What is neither number nor space is shorter.
    usual = len(structure) + _DIGITS * (1 + commas + names + openings)
    if len(outside) > usual:
        cost += max(0, _written(outside, usual + 16 * (most + 1)) - usual) // 16
    if cost > most:
        return cost, 0
    return cost, max(accumulate(memoryview(steps).cast("b")), default=0)


def _written(data: bytes, most: int) -> int:
    """Return how many bytes are no whitespace; if more than `most`, some greater number."""
    found = 0
    for begin in range(0, len(data), _COUNTED):
        found += len(data[begin : begin + _COUNTED].translate(None, _WHITESPACE))
        if found > most:
            break
    return found


def _outside_of_texts(data: bytes, most: int) -> bytes | None:
    """Return what of a JSON text is outside of its strings; None if it has far more strings than `most`."""
    if len(data) > LONG and (pieces := _outside_of_long_texts(data)) is not None:
        return b"".join(pieces)
    if b"\\" in data:
        # Without escaped characters each quote begins or ends a string.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A string is a value or a name; this limits the number of pieces.
    if _count_up_to(data, b'"', 4 * most) > 4 * most:
        return None
    return b"".join(data.split(b'"')[::2])


def _outside_of_long_texts(data: bytes) -> list[bytes] | None:
    """Return the parts outside of strings if these are few, without looking at each character in them."""
    pieces: list[bytes] = []
    begin = 0
    for _ in range(4 * _FEW):
        end = data.find(b'"', begin)
        if end < 0:
            return [*pieces, data[begin:]]
        pieces.append(data[begin:end])
        for _ in range(_FEW):
            end = data.find(b'"', end + 1)
            before = data[max(begin, end - _FEW) : end]
            if end < 0 or (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
                break
        else:
            return None
        if end < 0:
            return pieces
        begin = end + 1
    return None


def _count_up_to(data: bytes, character: bytes, most: int) -> int:
    """Return how often a character occurs; if more often than `most`, some greater number."""
    found = 0
    for begin in range(0, len(data), _COUNTED):
        end = begin + _COUNTED
        # To find one compares many bytes at a time, to count compares each.
        at = data.find(character, begin, end)
        if at >= 0:
            found += data.count(character, at, end)
            if found > most:
                break
    return found
