"""JSON as clients may write it, right and wrong: texts that no encoder makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final


class Members(list[tuple[str, Any]]):
    """An object as the list of its members, in their order, of which two may have one name."""


class Token(str):
    """A piece of JSON text that is written as it is."""

    __slots__ = ()


def tree(value: Any) -> Any:
    """Return a value with `Members` for its objects."""
    if isinstance(value, dict):
        return Members((name, tree(member)) for name, member in value.items())
    return [tree(item) for item in value] if isinstance(value, list) else value


def write(value: Any, space: str = "") -> str:
    """Return the JSON text of a tree, with `space` wherever JSON allows any."""
    if isinstance(value, Token):
        return str(value)
    if isinstance(value, Members):
        written = [f"{write(name)}{space}:{space}{write(member, space)}" for name, member in value]
        return f"{{{space}{f'{space},{space}'.join(written)}{space}}}"
    if isinstance(value, list):
        return f"[{space}{f'{space},{space}'.join(write(item, space) for item in value)}{space}]"
    return json.dumps(value, ensure_ascii=False)


def containers(value: Any) -> Iterator[Members | list[Any]]:
    """Iterate over the objects and lists of a tree, the outer ones first."""
    if isinstance(value, list):
        yield value
        for item in value:
            yield from containers(item[1] if isinstance(value, Members) else item)


#: What may stand where any value does.
VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 0, -1, 5, 1.5, "", "x", "7", "null", "[]", '{"n":1}', '"x"'),
    *(
        "a:b:c",
        "\u00e9:\u4e2d\u6587",
        'quotes " and \\ backslashes',
        "lines\nand\ttabs",
        "\U0001f600",
        "\x07",
    ),
    *map(
        Token,
        [
            *("5.0", "1e2", "-0", "-0.0", "1e400", "-1e400", "NaN", "Infinity", "01", "1.", "'x'"),
            *("9007199254740991", "9007199254740993", "18446744073709551616", "1" + 30 * "0", 5000 * "9"),
            *(
                '"\\u003a"',
                '"\\u0022:"',
                '"\\ud800"',
                '"\\ud83d\\ude00"',
                '"\\uffff"',
                '"\uffff"',
                '"\ufdd0"',
            ),
            *('"\\/"', '"\\b\\f\\r"', '"\\x"', '"a\x01b"'),
            *("[" * 50 + "]" * 50, "[" * 150 + "]" * 150, '{"a":' * 120 + "1" + "}" * 120),
            *('{"a":1,"a":2}', '[{"b:c":1,"b:c":1}]', '{"":{"":{"":""}}}', '{"_rs.v":1}'),
        ],
    ),
)


def _pick(root: Any, chance: Random, kind: type[Any] = list) -> Any:
    """Return a container that is not empty, of any depth."""
    found = [each for each in containers(root) if each and isinstance(each, kind)]
    return chance.choice(found) if found else Members([("", 0)])


def _place(root: Any, chance: Random, change: Callable[[Any], Any]) -> None:
    """Change one value at any depth."""
    container = _pick(root, chance)
    index = chance.randrange(len(container))
    if isinstance(container, Members):
        name, value = container[index]
        container[index] = name, change(value)
    else:
        container[index] = change(container[index])


def reorder(root: Any, chance: Random) -> None:
    """Put the members of an object into another order."""
    chance.shuffle(_pick(root, chance))


def repeat(root: Any, chance: Random) -> None:
    """Name a member twice, with the same value or another."""
    members = _pick(root, chance, Members)
    name, value = chance.choice(members)
    members.insert(chance.randrange(len(members) + 1), (name, chance.choice([value, value, None, 7, "x"])))


def remove(root: Any, chance: Random) -> None:
    """Leave out a member or an item."""
    container = _pick(root, chance)
    del container[chance.randrange(len(container))]


def add_unknown(root: Any, chance: Random) -> None:
    """Add a member that nobody knows, or that is known elsewhere."""
    name = chance.choice(["zzz", "a:b", "id", "result", "error", "stream", "progressToken", "", "\u00e9"])
    members = _pick(root, chance, Members)
    members.insert(chance.randrange(len(members) + 1), (name, chance.choice(VALUES)))


def replace(root: Any, chance: Random) -> None:
    """Put another value in the place of one."""
    value = chance.choice(VALUES)
    _place(root, chance, lambda _: tree(value) if not isinstance(value, Token) else value)


def nullify(root: Any, chance: Random) -> None:
    """Put null in the place of a value."""
    _place(root, chance, lambda _: None)


def as_text(root: Any, chance: Random) -> None:
    """Put the JSON text of a value in its place."""
    _place(root, chance, lambda value: write(value))


def escape(root: Any, chance: Random) -> None:
    """Write one character of a text, or of a name, as an escape."""
    container = _pick(root, chance)
    index = chance.randrange(len(container))
    item = container[index]
    text = (
        (item[0] if isinstance(item, tuple) and chance.random() < 0.5 else item[1])
        if isinstance(item, tuple)
        else item
    )
    if not isinstance(text, str) or not text or isinstance(text, Token):
        return
    at = chance.randrange(len(text))
    code = text[at].encode("utf-16-be", "surrogatepass").hex()
    codes = "".join(f"\\u{code[start : start + 4]}" for start in range(0, len(code), 4))
    written = Token(write(text[:at])[:-1] + codes + write(text[at + 1 :])[1:])
    if isinstance(item, tuple):
        name, value = item
        container[index] = (written, value) if text is name else (name, written)
    else:
        container[index] = written


MUTATIONS: Final = (reorder, repeat, remove, add_unknown, replace, nullify, as_text, escape)

#: What may be done to a whole line.
LINES: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda line: b"\xef\xbb\xbf" + line,
    lambda line: b" \t" + line + b" \r",
    lambda line: b"[" + line + b"]",
    lambda line: b"[" + line + b',{"jsonrpc":"2.0","method":"notifications/x"}]',
    lambda line: line[:-1],
    lambda line: line + b"}",
    lambda line: line.replace(b"}}", b",}}", 1),
    lambda line: line[: len(line) // 2] + b"\xff" + line[len(line) // 2 :],
    lambda line: line.replace(b"a", b"\xc3", 1),
    lambda line: line.replace(b"e", b"\xed\xa0\x80", 1),
    lambda line: line.replace(b'"tools/call"', b'"tools\\/call"'),
    lambda line: line.replace(b'"tools/call"', b'"tools/list"'),
    lambda line: line.replace(b'"2.0"', b'"1.0"'),
    lambda line: line.replace(b'"id"', b'"Id"'),
    lambda line: line.replace(b'{"jsonrpc"', b'{"jsonrpc":"2.0","jsonrpc"', 1),
)
