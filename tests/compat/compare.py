"""What a later version's answer must have in common with an earlier one's.

An object may have more members than it had; those that it had are there, and their values agree. Lists agree
in length and order. Text in an expected value may hold placeholders, which stand for what differs from run to
run; one that is numbered stands for the same text wherever it occurs.
"""

from __future__ import annotations

import re
from typing import Any

#: What each placeholder may stand for. Tokens and cursors are opaque: their form may change.
KINDS = {
    "id": r"\d+-\d+",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
    "lease": r"[A-Za-z0-9._-]{20,}",
    "hex": r"[0-9a-f]{32}",
    "version": r"\d+\.\d+\.\d+\S*",
    "cursor": r"(?s:.*)",
    "prose": r"(?s:.+)",
    "text": r"(?s:.*)",
}
PLACEHOLDER = re.compile(rf"<({'|'.join(KINDS)})( \d+)?>")
#: Stands for any number, where a number stood.
NUMBER = "<number>"

Bound = dict[str, str]


def differences(expected: Any, actual: Any, bound: Bound, path: str = "$") -> list[str]:
    """Return what is removed or changed in `actual`, a line each; placeholders found are added to `bound`."""
    if expected == NUMBER:
        if isinstance(actual, int | float) and not isinstance(actual, bool):
            return []
        return [f"{path}: expected a number, got {_shown(actual)}"]
    if isinstance(expected, str) and isinstance(actual, str):
        return [] if _fits(expected, actual, bound) else [_changed(path, filled(expected, bound), actual)]
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = []
        for name, value in expected.items():
            inner = f"{path}.{name}"
            if name in actual:
                found += differences(value, actual[name], bound, inner)
            else:
                found.append(f"{inner}: removed; it was {_shown(value)}")
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{path}: {len(expected)} elements became {len(actual)}: {_shown(actual)}"]
        pairs = zip(expected, actual, strict=True)
        return [
            line
            for index, (value, other) in enumerate(pairs)
            for line in differences(value, other, bound, f"{path}[{index}]")
        ]
    if expected == actual and isinstance(expected, bool) == isinstance(actual, bool):
        return []
    return [_changed(path, expected, actual)]


def filled(text: str, bound: Bound) -> str:
    """Put into `text` what its placeholders stand for, as far as that is known."""
    return PLACEHOLDER.sub(lambda found: bound.get(found[0], found[0]), text)


def _fits(expected: str, actual: str, bound: Bound) -> bool:
    names: list[str] = []
    pattern, at = "", 0
    for found in PLACEHOLDER.finditer(expected):
        pattern += re.escape(expected[at : found.start()])
        at = found.end()
        known = bound.get(found[0])
        if known is not None:
            pattern += re.escape(known)
        elif found[0] in names:
            pattern += f"(?P=p{names.index(found[0])})"
        elif found[2]:
            pattern += f"(?P<p{len(names)}>{KINDS[found[1]]})"
            names.append(found[0])
        else:
            pattern += f"(?:{KINDS[found[1]]})"
    match = re.fullmatch(pattern + re.escape(expected[at:]), actual)
    if match is None:
        return False
    bound.update(zip(names, match.groups(), strict=True))
    return True


def _changed(path: str, expected: Any, actual: Any) -> str:
    return f"{path}: {_shown(expected)} became {_shown(actual)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + " ..."
