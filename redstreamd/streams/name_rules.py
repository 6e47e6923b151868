"""The names that this installation accepts: the rules of ``streams.names`` with the settings applied.

One instance serves tools, resources, prompts, completion and subscriptions. It remembers the names that need
no further check, because the same names recur: at most `_MAX_REMEMBERED` of each sort, and none that is
longer than a name may be.
"""

from __future__ import annotations

from typing import Final

from redstreamd.settings import StreamsSettings
from redstreamd.streams.names import (
    check_consumer,
    check_group,
    check_stream,
    check_unreserved,
    is_reserved,
    naming_warning,
)

#: With names of 512 bytes about 2 MiB.
_MAX_REMEMBERED: Final = 4_096


class NameRules:
    """Checks names of streams, groups and consumers.

    Attributes:
        creatable: Names under which a stream may be created without asking Redis about it. Each is valid and
            not reserved, and follows the naming rule, if there is one, or was in use when Redis was asked.
            Only a name that `check_stream` accepted before is among them, and the oldest are forgotten.
    """

    # Invariant: every name in _valid is valid; every name in creatable is, too, and is not reserved and has
    # no naming warning.
    __slots__ = ("_max_bytes", "_naming", "_valid", "creatable")

    def __init__(self, settings: StreamsSettings | None = None) -> None:
        """Apply ``settings``; None for the defaults."""
        # Dicts, because they forget the oldest name first.
        self._valid: dict[str, None] = {}
        self.creatable: dict[str, None] = {}
        self.reconfigure(settings or StreamsSettings())

    def reconfigure(self, settings: StreamsSettings) -> None:
        """Apply other settings from now on."""
        self._max_bytes = settings.max_name_bytes
        self._naming = settings.naming
        self.forget()

    def forget(self) -> None:
        """Forget the names that were found right; they are checked again."""
        self._valid.clear()
        self.creatable.clear()

    @property
    def demanded(self) -> bool:
        """Whether a new stream's name must follow the naming rule."""
        return self._naming == "error"

    def check_stream(self, name: str, *, creates: bool = False) -> None:
        """Check the name of a stream.

        Args:
            name: The name.
            creates: Whether the stream may be created, so that the name may not be a reserved one.

        Raises:
            BusError: INVALID_STREAM.
        """
        if name in self.creatable:
            return
        check_stream(name, max_bytes=self._max_bytes)
        if creates:
            check_unreserved(name)
        if not is_reserved(name) and self.warning(name) is None:
            _remember(self.creatable, name)

    def check_group(self, name: str) -> None:
        """Check the name of a consumer group; INVALID_GROUP."""
        if name not in self._valid:
            _remember(self._valid, check_group(name, max_bytes=self._max_bytes))

    def check_consumer(self, name: str) -> None:
        """Check the name of a consumer; INVALID_ARGUMENT."""
        if name not in self._valid:
            _remember(self._valid, check_consumer(name, max_bytes=self._max_bytes))

    def note_creatable(self, name: str) -> None:
        """Note that there is no question about a valid name, which is not reserved; see `creatable`."""
        if not is_reserved(name):
            _remember(self.creatable, name)

    def warning(self, name: str) -> str | None:
        """Return a sentence if a new stream's name would depart from the naming rule; None if it is off."""
        return None if self._naming == "off" else naming_warning(name)


def _remember(names: dict[str, None], name: str) -> None:
    if len(names) >= _MAX_REMEMBERED:
        del names[next(iter(names))]
    names[name] = None
