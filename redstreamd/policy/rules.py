"""A rule of the policy as a value: ``PRINCIPAL ... may PERMISSION ... on STREAM ...``.

A rule only grants. So the order of rules has no meaning, no rule takes away what another one grants, and the
same can be said to Redis, whose own rules on keys only grant, too.

In the names of principals and streams ``*`` stands for any text, also none and also colons; every other
character stands for itself. This is less than a glob of Redis can say, and means the same in any encoding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from redstreamd.policy.principals import Permission

#: Stands for publish where what is published waits in quarantine for a release.
SUBMIT: Final = "submit"
NOTATION: Final = (
    "'PRINCIPAL ... may PERMISSION ... on STREAM ...', such as 'agents may read publish on jobs:*'; the "
    f"permissions are {', '.join(Permission)}, or {SUBMIT} in the place of publish; in names * stands for "
    "any text"
)
#: As long as a stream's name may be made by the settings.
_MAX_PATTERN: Final = 65_536


class Rule(msgspec.Struct, frozen=True):
    """What some principals may do to some streams.

    Attributes:
        principals: Patterns of their names.
        permissions: What they may do; in the order in which they were written.
        streams: Patterns of the names of streams. What is granted on a stream covers the keys beside it.
        submits: Whether what they publish waits in quarantine until it is released: the rule says ``submit``
            in the place of ``publish``.
    """

    principals: tuple[str, ...]
    permissions: tuple[Permission, ...]
    streams: tuple[str, ...]
    submits: bool = False

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        granted = (
            SUBMIT if self.submits and each is Permission.PUBLISH else each for each in self.permissions
        )
        return " ".join((*self.principals, "may", *granted, "on", *self.streams))

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule.

        Raises:
            ValueError: It is not valid; the message says what is, and which word is wrong.
        """
        words = text.split()
        may = words.index("may") if "may" in words else len(words)
        on = words.index("on", may) if "on" in words[may:] else len(words)
        principals, granted, streams = words[:may], words[may + 1 : on], words[on + 1 :]
        for what, given in (("principal", principals), ("permission", granted), ("stream", streams)):
            if not given:
                raise _MalformedError(f"it names no {what}")
        if may == len(words):
            raise _MalformedError("it does not say what the principals may do")
        for number, word in enumerate(words):
            if number < may:
                is_valid, what = re.fullmatch(r"[!-~]{1,255}", word) is not None, "name of a principal"
            elif may < number < on:
                is_valid, what = word in (*Permission, SUBMIT), "permission"
            else:
                is_valid, what = len(word) <= _MAX_PATTERN and word.isprintable(), "name of a stream"
            if not is_valid:
                raise _MalformedError(f"word {number + 1} is no {what}")
        for given in (principals, granted, streams):
            if len(set(given)) < len(given):
                raise _MalformedError("it names something twice")
        submits = SUBMIT in granted
        if submits and Permission.PUBLISH in granted:
            raise _MalformedError(f"{SUBMIT} adds nothing to publish")
        permissions = (Permission.PUBLISH if word == SUBMIT else Permission(word) for word in granted)
        return cls(tuple(principals), tuple(permissions), tuple(streams), submits)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return what says whether a name matches a pattern, in which ``*`` stands for any text.

    The time is linear in the name for a pattern with one ``*``, and bounded by name times pattern for others.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern.__eq__
    *middle, last = rest
    least = len(first) + len(last)

    def matches(name: str) -> bool:
        if len(name) < least or not (name.startswith(first) and name.endswith(last)):
            return False
        at, end = len(first), len(name) - len(last)
        # The first place of each part leaves most room for those that follow.
        for part in middle:
            found = name.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return matches


def covers(wider: str, narrower: str) -> bool:
    """Return whether every name that matches one pattern matches the other one, too."""
    # A star of the narrower stands for text that no other part of the wider one can name.
    return matcher(wider)(narrower)


class _MalformedError(ValueError):
    """A rule is not valid. Its text is not repeated, because a secret may be in the wrong place."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{NOTATION}; {why}")
