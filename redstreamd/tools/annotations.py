"""The four hints of MCP about a tool's effects (`ToolAnnotations`), each with its reason.

https://modelcontextprotocol.io/specification/2025-11-25/schema#toolannotations defines them:

- ``readOnlyHint``: the tool does not modify its environment;
- ``destructiveHint``: it may do more than add. Here: some arguments make it remove entries, groups, pending
  entries, dead letters or replies, or give them to somebody else;
- ``idempotentHint``: the same call again has no additional effect. Here: with any arguments, at any later
  time, and whatever others did on the stream in between;
- ``openWorldHint``: it interacts with systems outside a closed domain.

Clients use the hints to decide whether to ask the user and whether to repeat a call. So a hint states what
the tool can do with any arguments, not with the default ones.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Hint(msgspec.Struct, frozen=True):
    """One hint.

    Attributes:
        value: What ``tools/list`` says.
        reason: Why, in whole sentences; it is part of the documentation.
    """

    value: bool
    reason: str

    def __post_init__(self) -> None:
        """Raise ValueError if the reason is no sentence."""
        if not self.reason.endswith("."):
            raise ValueError(f"the reason of a hint is a sentence, not {self.reason!r}")


def yes(reason: str) -> Hint:
    """Return a hint that is true."""
    return Hint(True, reason)


def no(reason: str) -> Hint:
    """Return a hint that is false."""
    return Hint(False, reason)


class Hints(msgspec.Struct, frozen=True):
    """All hints of one tool; made by `reading` or `writing`.

    Attributes:
        read_only: ``readOnlyHint``.
        destructive: ``destructiveHint``.
        idempotent: ``idempotentHint``.
        open_world: ``openWorldHint``.
    """

    read_only: Hint
    destructive: Hint
    idempotent: Hint
    open_world: Hint


_CLOSED_WORLD = no("It acts on the streams of the one Redis that is configured, and on nothing else.")


def reading(reason: str) -> Hints:
    """Return the hints of a tool that changes nothing; `reason` says how it works."""
    return Hints(
        read_only=yes(reason),
        destructive=no("It changes nothing."),
        idempotent=yes("It changes nothing, however often it is called."),
        open_world=_CLOSED_WORLD,
    )


def writing(changes: str, *, destructive: Hint, idempotent: Hint) -> Hints:
    """Return the hints of a tool that changes something; `changes` says what.

    The other hints have no defaults, so that none is forgotten.
    """
    return Hints(
        read_only=no(changes), destructive=destructive, idempotent=idempotent, open_world=_CLOSED_WORLD
    )


def as_json(hints: Hints) -> dict[str, Any]:
    """Return the ``annotations`` of ``tools/list``; every hint is explicit."""
    return {
        "readOnlyHint": hints.read_only.value,
        "destructiveHint": hints.destructive.value,
        "idempotentHint": hints.idempotent.value,
        "openWorldHint": hints.open_world.value,
    }
