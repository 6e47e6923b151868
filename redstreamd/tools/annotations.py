"""What a tool does to its surroundings: the four hints of MCP, each with the reason for it.

Owns the hints and how they follow from each other. MCP defines them in its schema (`ToolAnnotations`,
https://modelcontextprotocol.io/specification/2025-11-25/schema#toolannotations):

- ``readOnlyHint``: the tool does not modify its environment;
- ``destructiveHint``: it may do more than add. Here: entries, groups, pending entries, dead letters or
  replies may go, or go to somebody else, for whatever arguments;
- ``idempotentHint``: the same call again has no additional effect. Here: for any arguments, however much
  later, and whatever others did on the stream meanwhile;
- ``openWorldHint``: it meets parties or content from outside a closed domain.

Clients decide by them whether a person is asked and whether a call is repeated. So a hint says what the
tool can do at most, not what it does with its default arguments.
"""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Claim:
    """One hint.

    Attributes:
        value: What clients are told.
        reason: Why it is so: whole sentences, for a person who reviews the claim.
    """

    value: bool
    reason: str = attrs.field()

    @reason.validator
    def _check_reason(self, _: object, value: str) -> None:
        if not value.endswith("."):
            raise ValueError(f"the reason of a hint is a sentence, not {value!r}")


def yes(reason: str) -> Claim:
    """Claim that it is so."""
    return Claim(True, reason)


def no(reason: str) -> Claim:
    """Claim that it is not so."""
    return Claim(False, reason)


@attrs.frozen
class Hints:
    """All hints of one tool; made by `reading` or `writing`.

    Attributes:
        read_only: It changes nothing.
        destructive: It may remove or take away what others rely on.
        idempotent: Repeating a call has no further effect.
        open_world: It meets content or parties from outside the bus.
    """

    read_only: Claim
    destructive: Claim
    idempotent: Claim
    open_world: Claim


_CLOSED_WORLD = no("It acts on the streams of the one Redis that is configured, and on nothing else.")


def reading(reason: str) -> Hints:
    """Return the hints of a tool that changes nothing, and say how it gets along without."""
    return Hints(
        read_only=yes(reason),
        destructive=no("It changes nothing."),
        idempotent=yes("It changes nothing, however often it is called."),
        open_world=_CLOSED_WORLD,
    )


def writing(changes: str, *, destructive: Claim, idempotent: Claim) -> Hints:
    """Return the hints of a tool that changes something, and say what.

    Neither claim has a default: a hint that was forgotten would be a wrong hint.
    """
    return Hints(
        read_only=no(changes), destructive=destructive, idempotent=idempotent, open_world=_CLOSED_WORLD
    )


def as_json(hints: Hints) -> dict[str, Any]:
    """Return the hints as ``tools/list`` gives them; every one is explicit."""
    return {
        "readOnlyHint": hints.read_only.value,
        "destructiveHint": hints.destructive.value,
        "idempotentHint": hints.idempotent.value,
        "openWorldHint": hints.open_world.value,
    }
