"""How a list of lines that hold no entries is kept small: whole lines, as many as fit."""

from __future__ import annotations

from typing import Any

import msgspec


def fitting(lines: list[dict[str, Any]], max_bytes: int) -> list[dict[str, Any]]:
    """Return as many lines from the front as take `max_bytes` of JSON together, but at least one."""
    room = max_bytes
    for index, line in enumerate(lines):
        room -= len(msgspec.json.encode(line)) + len(",")
        if room < 0 and index > 0:
            return lines[:index]
    return lines
