"""A rate of calls as a value: ``TOOL[@PRINCIPAL]=NUMBER/UNIT[ burst NUMBER]``."""

from __future__ import annotations

import re
from typing import Final

import msgspec

NOTATION: Final = (
    "TOOL=NUMBER/UNIT, such as stream_add=1000/s; TOOL@PRINCIPAL for principals of a name, in which * stands "
    "for any text; UNIT s, min or h; and perhaps ' burst NUMBER' at the end"
)
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600}
_FORM: Final = re.compile(
    r"(?P<tool>[a-z][a-z0-9_]{0,63})(@(?P<principal>[!-~]{1,255}))?\s*=\s*"
    r"(?P<number>[0-9]{1,7}(\.[0-9]{1,3})?)\s*/\s*(?P<unit>s|min|h)(\s+burst\s+(?P<burst>[0-9]{1,7}))?"
)


class Rate(msgspec.Struct, frozen=True):
    """How often a principal may call a tool.

    Attributes:
        tool: The tool's name; whether there is such a tool is not known here.
        principal: The name of the principals that it concerns, in which ``*`` stands for any text.
        number: Calls per `unit`, as it was written; more than 0.
        unit: ``s``, ``min`` or ``h``.
        burst: Calls that may come at once after a pause; None for those of one second, and at least one.
    """

    tool: str
    principal: str
    number: str
    unit: str
    burst: int | None = None

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return float(self.number) / _SECONDS[self.unit]

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        of = "" if self.principal == "*" else f"@{self.principal}"
        burst = "" if self.burst is None else f" burst {self.burst}"
        return f"{self.tool}{of}={self.number}/{self.unit}{burst}"

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate.

        Raises:
            ValueError: It is not valid; the message says what is.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(NOTATION)
        if float(found["number"]) == 0 or (found["burst"] is not None and int(found["burst"]) == 0):
            raise ValueError("a rate and a burst of more than 0")
        burst = None if found["burst"] is None else int(found["burst"])
        return cls(found["tool"], found["principal"] or "*", found["number"], found["unit"], burst)
