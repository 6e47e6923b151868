"""Events of every type, with all kinds of content."""

from __future__ import annotations

import enum
import errno
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

from redstreamd.admission.accounts import Peer
from redstreamd.policy import Principal
from redstreamd.redisio import Role
from redstreamd.redisio.redis_errors import Problem, ProblemKind
from redstreamd.service.heartbeats import StaleHeartbeat

#: How a text that comes from elsewhere may end, and what an outage may be about.
TEXTS = ("it broke", "it broke.", "did it break?", "it broke…")


def values_of(hint: Any) -> list[Any]:
    """Return values of a field's type that differ in how they are told."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [value for each in typing.get_args(hint) for value in values_of(each)]
    if typing.get_origin(hint) is tuple:
        holders = ((Peer(pid=1), 3), (Peer(address="192.0.2.1"), 2))
        member = typing.get_args(hint)[0]
        if member is str:
            return [(), ("one",), ("one", "two")]
        return [(), holders] if typing.get_origin(member) is tuple else [tuple(values_of(member))]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return list(hint)
    known: dict[Any, list[Any]] = {
        str: list(TEXTS),
        int: [0, 3],
        bool: [False, True],
        float: [0.0, 12.5],
        type(None): [None],
        Peer: [Peer(pid=1, uid=0), Peer(address="192.0.2.1")],
        Problem: [
            Problem(kind, cause, "Wait for it.", tuple(Role)) for kind in ProblemKind for cause in TEXTS
        ],
        Principal: [Principal("ann", "unix")],
        Exception: [ValueError(text) for text in TEXTS],
        BaseException: [ValueError(text) for text in TEXTS],
        StaleHeartbeat: [StaleHeartbeat("tail hub", 130.0, 120.0)],
        OSError: [OSError(errno.EMFILE, "Too many open files")],
    }
    return known.get(hint, [None])


def event_types(union: object) -> list[type]:
    members: list[type] = []
    for member in typing.get_args(union):
        members += event_types(member) if typing.get_args(member) else [member]
    return members


def instances_of(kind: type[msgspec.Struct]) -> Iterator[Any]:
    """Make events of a kind so that each value of each field occurs."""
    hints = typing.get_type_hints(kind)
    choices = [values_of(hints[name]) for name in kind.__match_args__]
    for turn in range(max(map(len, choices), default=1) * 2):
        yield kind(*(values[turn % len(values)] for values in choices))
