"""Checks the streams: how many there are, the largest, and dead letters."""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError

from redstreamd.doctor.probe import Probe, why_refused
from redstreamd.doctor.report import CheckResult, ok, skipped, warning
from redstreamd.streams.names import is_companion_key

#: Streams examined; takes about 50 ms of the server's time.
MAX_STREAMS: Final = 10_000

#: Pages of SCAN; where most keys are not streams a page may have few.
_MAX_PAGES: Final = 500
_PAGE: Final = 1_000
_DEAD: Final = ":rs:dead:"


async def check_streams(probe: Probe) -> CheckResult:
    """Count streams and dead letters, and name the largest stream."""
    tried = f"SCAN for up to {MAX_STREAMS} streams, and the length of each"
    names: dict[str, None] = {}
    cursor: int | bytes = 0
    for _ in range(_MAX_PAGES):
        page = await probe.execute("SCAN", cursor, "TYPE", "stream", "COUNT", _PAGE)
        if isinstance(page, RedisError):
            return skipped("streams", tried, why_refused(page, "SCAN"))
        cursor = page[0]
        names |= dict.fromkeys(name.decode("utf-8", "surrogateescape") for name in page[1])
        if int(cursor) == 0 or len(names) >= MAX_STREAMS:
            break
    lengths = await _lengths(probe, list(names)[:MAX_STREAMS])
    own = {name: length for name, length in lengths.items() if not is_companion_key(name)}
    dead = {name: length for name, length in lengths.items() if _DEAD in name and length}
    seen = f"{'at least ' if int(cursor) else ''}{len(own)} streams"
    if own:
        largest = max(own, key=lambda name: own[name])
        seen += f", the largest {_shown(largest)} with {own[largest]} entries"
    if not dead:
        return ok("streams", tried, f"{seen}; no dead letters")
    where = ", ".join(_shown(name.partition(_DEAD)[0]) for name in list(dead)[:3])
    return warning(
        "streams",
        tried,
        f"{seen}; {sum(dead.values())} dead letters of {where}",
        "List them, and replay them when the cause is gone: dead_letter_replay (profile operator).",
    )


async def _lengths(probe: Probe, names: list[str]) -> dict[str, int]:
    """Return the length of each stream that the user may read."""
    lengths: dict[str, int] = {}
    for start in range(0, len(names), _PAGE):
        page = names[start : start + _PAGE]
        commands = [("XLEN", name.encode("utf-8", "surrogateescape")) for name in page]
        replies = await probe.execute_all(commands)
        lengths |= {name: reply for name, reply in zip(page, replies, strict=True) if isinstance(reply, int)}
    return lengths


def _shown(name: str) -> str:
    return repr(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
