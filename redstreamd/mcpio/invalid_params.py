"""Says which member of a request's params is wrong, and what is expected there; never what was given.

The SDK says "Invalid request parameters", and no more, because pydantic's own texts may repeat values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict

from redstreamd.errors.remedies import shortened

#: The SDK's text.
INVALID_PARAMS: Final = "Invalid request parameters"
#: With more errors than this, none is named: to list them would take long.
MAX_ERRORS: Final = 100
#: How many members are named.
_NAMED: Final = 3

_MISSING: Final = "missing"
_LITERAL: Final = "literal_error"
#: What is expected, by pydantic's type of an error.
_EXPECTED: Final[Mapping[str, str]] = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_Path = tuple[str | int, ...]


class FieldError(TypedDict):
    """What is used of an error of pydantic's."""

    type: str
    loc: tuple[int | str, ...]
    msg: str


def describe(errors: Iterable[FieldError], params: Mapping[str, Any] | None) -> str:
    """Return the message for the params of a request that do not fit.

    Args:
        errors: What is wrong with them.
        params: As the client sent them.
    """
    found: dict[_Path, list[str]] = {}
    for path, expected in _of_best_branch(errors, params):
        wanted = found.setdefault(path, [])
        if expected not in wanted:
            wanted.append(expected)
    wrong = [_sentence(path, wanted) for path, wanted in found.items()]
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return f"{INVALID_PARAMS}: {'; '.join(wrong[:_NAMED])}{more}"


def _of_best_branch(
    errors: Iterable[FieldError], params: Mapping[str, Any] | None
) -> list[tuple[_Path, str]]:
    """Return the place of each error, and what is expected there; empty where the member is missing.

    Of a value with several forms, such as ``ref``, each form that does not fit has errors. Those are left
    out whose ``type`` is not what the client wrote, if another form has that.
    """
    found: list[tuple[_Path, tuple[_Path, str] | None, str, str]] = []
    for error in errors:
        path, branch = _place(error["loc"], params, is_missing=error["type"] == _MISSING)
        found.append((path, branch, error["type"], _expected(error)))
    other_types = {branch for _, branch, kind, _ in found if branch is not None and kind == _LITERAL}
    fitting = {branch[0] for _, branch, _, _ in found if branch is not None and branch not in other_types}
    return [
        (path, expected)
        for path, branch, kind, expected in found
        if branch is None
        or (branch not in other_types if branch[0] in fitting else kind == _LITERAL or not other_types)
    ]


def _place(
    loc: tuple[int | str, ...], params: Mapping[str, Any] | None, *, is_missing: bool
) -> tuple[_Path, tuple[_Path, str] | None]:
    """Return the path of a member, and which form of a value its error is about.

    Among pydantic's steps are the names of forms, which are not in the value.
    """
    value: Any = params
    path: list[str | int] = ["params"]
    branch: tuple[_Path, str] | None = None
    steps = loc[1:] if loc[:1] == ("params",) else loc
    for number, step in enumerate(steps, 1):
        is_there = step in value if isinstance(value, dict) else _has_item(value, step)
        if is_there:
            value = value[step]
            path.append(step)
        elif is_missing and number == len(steps):
            path.append(step)
        else:
            branch = tuple(path), str(step)
    return tuple(path), branch


def _has_item(value: Any, step: int | str) -> bool:
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def _expected(error: FieldError) -> str:
    if error["type"] == _MISSING:
        return ""
    if error["type"] == _LITERAL:
        # What may stand there, which follows from the schema.
        return error["msg"].removeprefix("Input should be ")
    return _EXPECTED.get(error["type"], "another value")


def _sentence(path: _Path, expected: list[str]) -> str:
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{shortened(step)}" for step in path)
    return f"{shortened(name[1:], 200)} {'must be ' + ' or '.join(expected) if expected[0] else 'is missing'}"
