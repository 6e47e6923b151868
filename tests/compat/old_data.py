"""Loads the data of an earlier release into a running server, and says what that release answered.

See `tests.compat.make_fixture` for how it was made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from redstreamd.policy import Principal
from redstreamd.streams.bus import Bus
from redstreamd.streams.lease_tokens import LeaseKey
from tests.support.calls import call
from tests.support.server_clock import milliseconds
from tests.support.servers import Server

DATA = Path(__file__).parent / "data"
#: The sorted sets that hold due times in milliseconds; those that nobody holds end in half a one.
_DUE = "*:rs:due:*"


@attrs.frozen
class OldData:
    """The data of one release.

    Attributes:
        directory: Where it lies.
        about: The sidecar; see `tests.compat.make_fixture`.
    """

    directory: Path
    about: dict[str, Any]

    @classmethod
    def of(cls, release: str) -> OldData:
        """Read what belongs to a release."""
        directory = DATA / release
        return cls(directory, json.loads((directory / "calls.json").read_text("utf-8")))

    @property
    def principal(self) -> Principal:
        """Who wrote the data."""
        return Principal(self.about["principal"], "unix")

    @property
    def key(self) -> LeaseKey:
        """The lease key; a copy is read, since the file is to be as it was."""
        return LeaseKey((self.directory / "lease.key").read_bytes())

    def load(self, server: Server, *, later_seconds: float = 0) -> None:
        """Replace what is in `server` by the data, as if it had been saved `later_seconds` ago.

        The server reads the file itself. Then due times are moved by the time since the save, and what
        expired is given the time that it had left. Entry IDs and the times of deliveries stay as they are.
        """
        file = server.directory / "dump.rdb"
        file.write_bytes((self.directory / "dump.rdb").read_bytes())
        try:
            reply = server.command("DEBUG", "RELOAD", "NOSAVE")
            assert reply == b"OK", reply
        finally:
            file.unlink()
        moved = milliseconds(server) - self.about["saved_at"] - int(later_seconds * 1000)
        for key in server.command("KEYS", _DUE):
            words = server.command("ZRANGE", key, 0, -1, "WITHSCORES")
            for member, score in zip(words[::2], words[1::2], strict=True):
                server.command("ZADD", key, f"{float(score) + moved:.1f}", member)
        for key, left in self.about["ttl"].items():
            assert server.command("PEXPIRE", key, left - int(later_seconds * 1000)) == 1, key

    def answer(self, name: str) -> dict[str, Any]:
        """Return what was answered to a call."""
        answer: dict[str, Any] = self.about["calls"][name]["answer"]
        return answer

    def arguments(self, name: str) -> dict[str, Any]:
        """Return what a call was made with."""
        arguments: dict[str, Any] = self.about["calls"][name]["arguments"]
        return arguments

    def ids(self, name: str) -> list[str]:
        """Return the IDs of the entries that were added or taken by a call."""
        answer = self.answer(name)
        return answer["ids"] if "ids" in answer else [entry["id"] for entry in answer["entries"]]

    def lease(self, name: str) -> str:
        """Return the token of a call of work_take."""
        token: str = self.answer(name)["lease"]
        return token

    async def call(self, bus: Bus, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool, which must succeed, as the principal that wrote the data."""
        return await call(bus, tool, self.principal, **arguments)

    async def repeat(self, bus: Bus, name: str, **changes: Any) -> dict[str, Any]:
        """Make a call again, with some arguments changed."""
        made = self.about["calls"][name]
        return await self.call(bus, made["tool"], **(made["arguments"] | changes))
