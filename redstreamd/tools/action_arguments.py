"""Tools with several actions: an argument of another action is refused, not ignored.

Whoever calls "delete" with entry_ids means these entries, and must not lose the whole stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from redstreamd.errors import BusError, Code


def check_arguments(args: Any, own: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse arguments that the action in `args.action` has no use for.

    Args:
        args: A tool's arguments, an attrs object. One that equals its default counts as not given.
        own: The arguments that only some actions take, by action; what is not in it is for all.

    Raises:
        BusError: INVALID_ARGUMENT, naming the argument and the actions that take it.
    """
    defaults = {field.name: field.default for field in attrs.fields(type(args))}
    for name in sorted({name for names in own.values() for name in names}):
        takers = [action for action, names in own.items() if name in names]
        if args.action not in takers and getattr(args, name) != defaults[name]:
            raise BusError(
                Code.INVALID_ARGUMENT,
                f"Action {args.action} takes no {name}; nothing was done.",
                cause=f"{name} belongs to {' and '.join(takers)}.",
                next_step=f"Leave out {name}, or choose another action.",
            )
