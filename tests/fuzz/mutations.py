"""Makes input that is nearly right: values that programs stumble over, put into values that are valid."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

#: Texts with what a reader does not see, breaks a line, or is no text.
TEXTS: Final = (
    "",
    " ",
    "\x00",
    "a\nb",
    "\x1b[2J\x9b",
    "\u202eabc\u2066",
    "\u2028\u2029",
    "\U000e0041\ufeff",
    "\ud800",
    "\uffff",
    "é" * 200,
    "x" * 600,
    "-",
    "$",
    ">",
    "*",
    "0-0",
    "18446744073709551616-1",
    "%00%",
    "../../etc/passwd",
    "${HOME}",
    "s:rs:dead:g:{s}",
    "_rs.sender",
    "{}",
    "[1]",
    "null",
    "1e999",
)
VALUES: Final[Sequence[Any]] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    [],
    {},
    [[]],
    {"": None},
    [None] * 100,
)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return any value of JSON, or what Python would write as such."""
    match rng.randrange(8):
        case 0 | 1 | 2:
            return copy.deepcopy(rng.choice(VALUES))
        case 3 | 4 | 5:
            return rng.choice(TEXTS)
        case 6 if depth < 3:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 7 if depth < 3:
            return {rng.choice(TEXTS): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.randrange(-10, 10)


def mutated(rng: random.Random, document: Any) -> Any:
    """Return a copy of a document in which a few members are others, elsewhere, or gone."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(document))
        if not places:
            return value(rng)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(TEXTS)] = holder.pop(key)
            case 2:
                other_holder, other_key = rng.choice(places)
                holder[key] = copy.deepcopy(other_holder[other_key])
            case 3 if isinstance(holder[key], str):
                holder[key] += rng.choice(TEXTS)
            case _:
                holder[key] = value(rng)
    return document


def _places(document: Any) -> Any:
    """Yield the holder and the key of each member of a document, at any depth."""
    if isinstance(document, dict):
        members: Any = list(document.items())
    elif isinstance(document, list):
        members = list(enumerate(document))
    else:
        return
    for key, member in members:
        yield document, key
        yield from _places(member)


def as_json(rng: random.Random, document: Any) -> bytes:
    """Return a document as JSON, in one of the forms that writers have."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        text = text.replace(":", " \t: ").replace(",", " , ")
    if rng.random() < 0.05 and text.startswith("{") and len(text) > 2:
        # The same members once more: each is named twice.
        text = f"{text[:-1]}, {text[1:]}"
    return text.encode("utf-8", "surrogatepass")


def _flipped(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _inserted(rng: random.Random, data: bytearray) -> None:
    place = rng.randrange(len(data) + 1)
    data[place:place] = rng.choice(
        (
            b"\xff",
            b"\xc3",
            b"\xed\xa0\x80",
            b"\x00",
            b"\r",
            b"\n",
            b'"',
            b"\\u12",
            b"{",
            b"]",
            b"[" * 500,
            b"9" * 400,
        )
    )


def _deleted(rng: random.Random, data: bytearray) -> None:
    place = rng.randrange(len(data))
    del data[place : place + rng.choice((1, 1, 5, 1000))]


def _repeated(rng: random.Random, data: bytearray) -> None:
    place = rng.randrange(len(data))
    data[place:place] = data[place : place + rng.randrange(1, 40)] * rng.choice((1, 2, 50))


_DAMAGES: Final[Sequence[Callable[[random.Random, bytearray], None]]] = (
    _flipped,
    _inserted,
    _deleted,
    _repeated,
)


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with a few of them flipped, inserted, deleted or repeated."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if changed:
            rng.choice(_DAMAGES)(rng, changed)
    return bytes(changed)
