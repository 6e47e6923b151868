"""Declares kinds of events: each once, with all that an administrator may be told of it.

Parts report events as values without text. A declaration gives such a type its message ID, its severity, the
sentence of the record, and the cause and remedy that ``journalctl -x`` shows. Records, the message catalog
and docs/events.md follow from the declarations; an event without one cannot be recorded. The structured
fields follow from the names of the event's attributes, see `fields`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from redstreamd.event_log.fields import Reader, readers_of
from redstreamd.service.exceptions import unwrapped
from redstreamd.service.log_record import Record, Severity

E = TypeVar("E", bound=msgspec.Struct)

_ID_DIGITS: Final = 32


class UndeclaredEventError(TypeError):
    """An event was reported that has no declaration."""


class Declaration(msgspec.Struct, frozen=True):
    """A kind of event.

    Attributes:
        event: The type of its events; several kinds may share one, and differ by `when`.
        message_id: Random, and never used for anything else.
        name: The value of REDSTREAMD_EVENT.
        severity: Of its records.
        sentence: Returns what happened, why and what to do, in one sentence without a full stop.
        cause: What it means, in whole sentences, for the catalog.
        remedy: What to do, in whole sentences, for the catalog.
        when: Whether an event of the type is of this kind; None for all that are of no other.
        summed_by: Returns what makes events equal where clients can cause any number of them: of those that
            are equal, the first is recorded, and at the end how many there were. None where each is.
        fields: How its structured fields are read from an event.
    """

    event: type[msgspec.Struct]
    message_id: str
    name: str
    severity: Severity
    sentence: Callable[[Any], str]
    cause: str
    remedy: str
    when: Callable[[Any], bool] | None
    summed_by: Callable[[Any], Hashable] | None
    fields: tuple[Reader, ...]

    @property
    def subject(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ").capitalize()

    def record(self, event: msgspec.Struct) -> Record:
        """Return the record of an event of this kind."""
        fields = tuple(field for read in self.fields for field in read(event))
        text = self.sentence(event)
        return Record(self.severity, self.message_id, self.name, text, fields, self._traceback(event))

    def _traceback(self, event: msgspec.Struct) -> str:
        """Return the traceback of an error that nobody foresaw; those of this project explain themselves."""
        if self.severity > Severity.ERROR:
            return ""
        error = getattr(event, "error", None) or getattr(event, "exception", None)
        if not isinstance(error, BaseException) or _is_ours(error):
            return ""
        return "".join(traceback.format_exception(error)).rstrip("\n")


_DECLARED: Final[dict[type, list[Declaration]]] = {}


def declared(
    event: type[E],
    message_id: str,
    severity: Severity,
    *,
    cause: str,
    remedy: str,
    when: Callable[[E], bool] | None = None,
    summed_by: Callable[[E], Hashable] | None = None,
) -> Callable[[Callable[[E], str]], Callable[[E], str]]:
    """Declare a kind of event; the function below returns its sentence, and has its name.

    For the arguments see `Declaration`. Of the kinds of one type, one without `when` comes last.
    """

    def declare(sentence: Callable[[E], str]) -> Callable[[E], str]:
        kinds = _DECLARED.setdefault(event, [])
        name = sentence.__name__
        if len(message_id) != _ID_DIGITS or any(
            message_id == each.message_id or name == each.name for each in declarations()
        ):
            raise ValueError(f"{name}: the message ID or the name is no new one")
        if any(each.when is None for each in kinds):
            raise ValueError(f"{name}: each {event.__name__} is of an earlier kind")
        fields = readers_of(event)
        kinds.append(
            Declaration(event, message_id, name, severity, sentence, cause, remedy, when, summed_by, fields)
        )
        return sentence

    return declare


def declarations() -> Iterator[Declaration]:
    """Yield all kinds that have been declared so far, in their order."""
    for kinds in _DECLARED.values():
        yield from kinds


def declaration_of(event: msgspec.Struct) -> Declaration:
    """Return the kind of an event.

    Raises:
        UndeclaredEventError: There is none.
    """
    for each in _DECLARED.get(type(event), ()):
        if each.when is None or each.when(event):
            return each
    raise UndeclaredEventError(f"{type(event).__name__} is not declared in redstreamd/event_log/")


def _is_ours(error: BaseException) -> bool:
    return type(unwrapped(error)).__module__.startswith("redstreamd.")
