"""What a kill leaves of the append-only file of Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MULTI: Final = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC: Final = b"*1\r\n$4\r\nEXEC\r\n"


def drop_torn_transaction(directory: Path) -> bytes:
    """Remove a transaction that is written in part only, as ``redis-check-aof --fix`` does. Blocks.

    A kill can fall into the write of a script's effects. Redis (7.0, 8.10) cuts the file off then after the
    last whole command, within the transaction, and leaves its beginning there. It executes that with the next
    transaction when it starts once more: an entry that it never acknowledged comes back without the record
    of its idempotency key. Valkey does not.

    Args:
        directory: Of a server that is not running.

    Returns:
        What was removed; mostly nothing.
    """
    removed = b""
    for path in sorted(directory.glob("**/appendonly*.aof")):
        data = path.read_bytes()
        begin = data.rfind(_MULTI)
        if begin >= 0 and data.find(_EXEC, begin) < 0:
            with path.open("r+b") as file:
                file.truncate(begin)
            removed += data[begin:]
    return removed
