"""Which calls of a tool are audited, and what their records name: derived from the tool's definition.

A call is audited if it changes or removes what others rely on. That is every call of a tool that writes with
the permission to manage, unless it is a dry run; and of any other tool each call with an argument that is
marked as removing. A tool that may destroy, and has neither, says why its calls need no record.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter
from typing import Any, Final, Literal

import attrs

from redstreamd.policy import Permission
from redstreamd.streams.lease_tokens import Lease
from redstreamd.tools.argument_text import ONLY_REQUIRED
from redstreamd.tools.argument_types import NameOf, annotations_of, markers_in

# Equals nothing that is given.
_NEVER: Final = object()


class Marked(enum.Enum):
    """What an argument means for the audit; part of its `Annotated` type."""

    #: Which of the tool's actions is taken: one of a few words.
    ACTION = enum.auto()
    #: With another value than its default the call removes what others may rely on, or forces that.
    REMOVES = enum.auto()
    #: If true, nothing is changed.
    DRY_RUN = enum.auto()


@attrs.frozen
class Effects:
    """What a call of a tool may do to others, as far as its arguments tell.

    Attributes:
        always: Whether each call is audited that is not a dry run.
        action: The argument that says which action is taken.
        dry_run: The argument that says that nothing is changed.
        removing: The arguments that remove or force, with the value that does not, and whether they are one
            of a few words.
        group: The argument that names a consumer group.
        group_is_required: Whether it must be given.
        given: Returns of arguments what `of_call` depends on.
        usual: What that is for arguments of which there is nothing to tell, without a lease; most calls have
            such, and are spared a function.
        usual_classes: The classes of arguments for which it is that; see `ONLY_REQUIRED`.
    """

    always: bool
    action: str | None
    dry_run: str | None
    removing: tuple[tuple[str, Any, bool], ...]
    group: str | None
    group_is_required: bool
    given: Callable[[object], Any] = attrs.field(init=False, repr=False)
    usual: Any = attrs.field(init=False, repr=False)
    usual_classes: Collection[type] = attrs.field(init=False, repr=False)

    @given.default
    def _getter(self) -> Callable[[object], Any]:
        names = [name for name, _, _ in self.removing] + ([] if self.group is None else [self.group])
        return attrgetter(*names) if names else _nothing

    @usual.default
    def _defaults(self) -> Any:
        if self.always:
            return _NEVER
        usual = [kept for _, kept, _ in self.removing] + ([] if self.group is None else [None])
        return usual[0] if len(usual) == 1 else tuple(usual)

    @usual_classes.default
    def _without_more(self) -> Collection[type]:
        has_required = any(kept is attrs.NOTHING for _, kept, _ in self.removing) or self.group_is_required
        return frozenset() if self.always or has_required else ONLY_REQUIRED

    @property
    def may_be_audited(self) -> bool:
        """Whether there are calls that are audited."""
        return self.always or bool(self.removing)

    def of_call(self, arguments: object, lease: Lease | None) -> tuple[str | None, str | None]:
        """Return the consumer group that a call is about, if any, and its action, see `action_of`.

        Args:
            arguments: The call's.
            lease: The lease among them; what it names counts.
        """
        if lease is not None:
            group: str | None = lease.group
        else:
            group = None if self.group is None else getattr(arguments, self.group)
        return group, self.action_of(arguments)

    def action_of(self, arguments: object) -> str | None:
        """Return what an audited call does: its action, and its arguments that remove or force.

        Of texts that may be anything it is told that they were given.

        Returns:
            Words with a space between; None for a call that is not audited.
        """
        if self.dry_run is not None and getattr(arguments, self.dry_run):
            return None
        removing = [
            _shown(name, value, is_word)
            for name, kept, is_word in self.removing
            if (value := getattr(arguments, name)) is not None and value != kept
        ]
        if not removing and not self.always:
            return None
        action = [] if self.action is None else [str(getattr(arguments, self.action))]
        return " ".join(action + removing)


def effects_of(
    arguments: type[attrs.AttrsInstance],
    permission: Permission,
    *,
    writes: bool,
    destructive: bool,
    unaudited: str,
) -> Effects:
    """Return the effects of a tool.

    Args:
        arguments: Its argument class.
        permission: What it needs at least.
        writes: Whether it changes anything.
        destructive: Whether some arguments make it do more than add.
        unaudited: Why its calls need no record although it is destructive; else empty.

    Raises:
        ValueError: It is destructive, and it is not known which of its calls are audited; or it is, and there
            is a reason against.
    """
    marks = markers_in(arguments, Marked)
    named = markers_in(arguments, NameOf)
    hints = annotations_of(arguments)
    defaults = {field.name: field.default for field in attrs.fields(arguments)}

    def marked(mark: Marked) -> str | None:
        return next((name for name, what in marks.items() if what is mark), None)

    group = next((name for name, what in named.items() if what is NameOf.GROUP), None)
    effects = Effects(
        always=writes and permission is Permission.MANAGE,
        action=marked(Marked.ACTION),
        dry_run=marked(Marked.DRY_RUN),
        removing=tuple(
            (name, defaults[name], Literal in set(_origins(hints[name])))
            for name, what in marks.items()
            if what is Marked.REMOVES
        ),
        group=group,
        group_is_required=group is not None and defaults[group] is attrs.NOTHING,
    )
    if effects.may_be_audited == bool(unaudited) and (destructive or unaudited):
        raise ValueError(
            f"{arguments.__name__}: a destructive tool needs the permission to manage, or arguments marked "
            "Marked.REMOVES, or else a reason why its calls need no audit record"
        )
    return effects


def _origins(hint: Any) -> Iterator[Any]:
    yield typing.get_origin(hint)
    for part in typing.get_args(hint):
        yield from _origins(part)


def _nothing(_arguments: object) -> tuple[()]:
    return ()


def _shown(name: str, value: object, is_word: bool) -> str:
    if value is True:
        return name
    return f"{name}={value}" if is_word or isinstance(value, int | float) else name
