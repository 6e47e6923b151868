"""Which streams are encrypted, and how: the first rule whose pattern matches a stream's name counts.

Unlike the rules of the policy, which only grant, these have an order: an exception stands before the rule
that it is an exception of. Patterns mean the same as there. The keys beside a stream follow its rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from redstreamd.policy.rules import covers, matcher

NOTATION: Final = (
    "'STREAM ... are encrypted', then 'with names' to hide the names of fields as well, then "
    "'except FIELD ...' for fields that stay clear, such as 'jobs:* are encrypted except kind'; or "
    "'STREAM ... are clear'; in the names of streams * stands for any text"
)
#: Rules that are remembered by stream; with names of 512 bytes about 3 MiB.
_MAX_REMEMBERED: Final = 4_096
#: As long as a name may be made by the settings.
_MAX_NAME: Final = 65_536

Judged = Callable[[str], tuple[str, bool]]
"""Returns the stream that a key is judged by, and whether the key is a reply stream beside it."""


class EncryptionRule(msgspec.Struct, frozen=True):
    """How the entries of some streams are written.

    Attributes:
        streams: Patterns of their names.
        is_encrypted: Whether their entries are encrypted; False for an exception.
        clear: The names of fields that stay as they are.
        hide_names: Whether the names of the encrypted fields are encrypted, too.
    """

    streams: tuple[str, ...]
    is_encrypted: bool = True
    clear: frozenset[str] = frozenset()
    hide_names: bool = False

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        words = [*self.streams, "are", "encrypted" if self.is_encrypted else "clear"]
        if self.hide_names:
            words += ["with", "names"]
        if self.clear:
            words += ["except", *sorted(self.clear)]
        return " ".join(words)

    @classmethod
    def parse(cls, text: str) -> EncryptionRule:
        """Read a rule.

        Raises:
            ValueError: It is not valid; the message says what is, and what is wrong.
        """
        words = text.split()
        if "are" not in words:
            raise _MalformedError("it does not say what the streams are")
        are = words.index("are")
        streams, how = words[:are], words[are + 1 :]
        if not streams:
            raise _MalformedError("it names no stream")
        if how == ["clear"]:
            rule = cls(tuple(streams), is_encrypted=False)
        elif how[:1] == ["encrypted"]:
            hide_names = how[1:3] == ["with", "names"]
            rest = how[3:] if hide_names else how[1:]
            if rest and (rest[0] != "except" or len(rest) == 1):
                raise _MalformedError("after 'encrypted' stands neither 'with names' nor 'except FIELD ...'")
            rule = cls(tuple(streams), clear=frozenset(rest[1:]), hide_names=hide_names)
        else:
            raise _MalformedError("the streams are neither encrypted nor clear")
        names = [*streams, *rule.clear]
        if not all(len(name) <= _MAX_NAME and name.isprintable() for name in names):
            raise _MalformedError("a name is too long, or contains a control character")
        if len(set(streams)) < len(streams):
            raise _MalformedError("it names a stream twice")
        return rule


class EncryptionRules:
    """The rules in force.

    Attributes:
        encrypts: Whether any stream is encrypted.
        rules: They, in their order.
    """

    def __init__(self, rules: Sequence[EncryptionRule], judged: Judged) -> None:
        """Apply the rules.

        Args:
            rules: The first that matches counts.
            judged: Says whose rule a key beside a stream follows.
        """
        self.rules: Final = tuple(rules)
        self.encrypts: Final = any(rule.is_encrypted for rule in rules)
        self._judged: Final = judged
        self._matchers: Final = [(tuple(map(matcher, rule.streams)), rule) for rule in rules]
        # The oldest is forgotten first.
        self._found: Final[dict[str, EncryptionRule | None]] = {}

    def rule_for(self, stream: str) -> EncryptionRule | None:
        """Return how entries are written to a stream, or to a key beside one; None for as they are."""
        if not self.encrypts:
            return None
        try:
            return self._found[stream]
        except KeyError:
            found = self._decide(stream)
        if len(self._found) >= _MAX_REMEMBERED:
            del self._found[next(iter(self._found))]
        self._found[stream] = found
        return found

    def _decide(self, stream: str) -> EncryptionRule | None:
        name, _ = self._judged(stream)
        for matchers, rule in self._matchers:
            if any(matches(name) for matches in matchers):
                return rule if rule.is_encrypted else None
        return None


def without_effect(rules: Sequence[EncryptionRule]) -> Iterator[str]:
    """Yield a sentence for each pattern that matches no stream which no rule before it matches."""
    for number, rule in enumerate(rules, 1):
        for stream in rule.streams:
            before = (
                each for each in rules[: number - 1] if any(covers(wider, stream) for wider in each.streams)
            )
            if (first := next(before, None)) is not None:
                yield f"rule {number} of encryption says nothing of {stream}: {str(first)!r} before it counts"


class _MalformedError(ValueError):
    """A rule is not valid. Its text is not repeated, because a secret may be in the wrong place."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{NOTATION}; {why}")
