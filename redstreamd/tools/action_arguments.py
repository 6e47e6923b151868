"""Checks for tools with several actions.

An argument of another action is refused, not ignored: a caller that gives "delete" with entry_ids means these
entries, and must not lose the whole stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from redstreamd.errors import BusError, Code
from redstreamd.streams import entry_ids


def check_arguments(args: Any, by_action: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse arguments that the action in `args.action` does not take.

    Args:
        args: A tool's arguments, an attrs object. One that equals its default counts as not given.
        by_action: The arguments that only some actions take. All others are for every action.

    Raises:
        BusError: INVALID_ARGUMENT, naming the argument and the actions that take it.
    """
    defaults = {field.name: field.default for field in attrs.fields(type(args))}
    for name in sorted({name for names in by_action.values() for name in names}):
        actions = [action for action, names in by_action.items() if name in names]
        if args.action not in actions and getattr(args, name) != defaults[name]:
            raise BusError(
                Code.INVALID_ARGUMENT,
                f"Action {args.action} takes no {name}; nothing was done.",
                cause=f"{name} belongs to {' and '.join(actions)}.",
                next_step=f"Leave out {name}, or choose another action.",
            )


def missing_argument(argument: str, why: str) -> BusError:
    """Return the error of an action without an argument that it needs; `why` is a sentence."""
    return BusError(
        Code.INVALID_ARGUMENT,
        f"{argument} is missing.",
        cause=why,
        next_step=f"Give {argument} with this action.",
    )


def complete_entry_id(text: str, argument: str) -> str:
    """Return an entry ID with both parts.

    Raises:
        BusError: INVALID_ARGUMENT, naming the argument.
    """
    parts = entry_ids.parse(text)
    if parts is None:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"{argument}: {text[:40]!r} is not an entry ID.",
            cause="An entry ID is milliseconds, a dash and a sequence number.",
            next_step="Pass an id as an earlier answer gives it.",
        )
    return f"{parts[0]}-{parts[1]}"
