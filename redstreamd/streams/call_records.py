"""How a script recognises that its own call was sent again.

A command whose reply was lost is sent again if that is safe. The second sending finds what the first one
did, and could not tell that from what somebody else did before: an answer would say `duplicate`, or leave
out that a group was created. So a call brings the name of a key that no other call has, and the script notes
there what it did.
"""

from __future__ import annotations

import secrets

import attrs

from redstreamd.redisio.connection_manager import Manager
from redstreamd.streams.names import Kind, companion_key


@attrs.frozen
class CallRecord:
    """Where the first sending of a call notes what it did.

    Attributes:
        key: A string beside the stream; each script has its own form for it.
        keep_ms: For how long it is kept, in milliseconds: beyond that nobody sends the call again.
    """

    key: str
    keep_ms: int

    @classmethod
    def of(cls, manager: Manager, stream: str) -> CallRecord:
        """Return the place for one call on `stream`."""
        key = companion_key(stream, Kind.CALL, secrets.token_hex(8))
        # A call ends after its timeout, but the server may execute a last sending after that.
        return cls(key, int(manager.command_timeout * 2_000))
