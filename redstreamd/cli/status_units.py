"""Numbers with their units, as ``redstreamd status`` writes them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def latency(seconds: float) -> str:
    """Return a short time with two digits or more: 0.42 ms, 12 ms, 1.2 s."""
    milliseconds = seconds * 1000
    if milliseconds < 9.95:
        return f"{milliseconds:.2f} ms" if milliseconds < 0.995 else f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 999.5 else f"{seconds:.1f} s"


def rate(per_second: float) -> str:
    """Return a rate: 0.2/s, 1,234/s."""
    return f"{per_second:.1f}/s" if 0 < per_second < 9.95 else f"{per_second:,.0f}/s"


def mebibytes(size: float) -> str:
    """Return a size in bytes: 0.4 MiB, 92 MiB."""
    mib = size / (1 << 20)
    return f"{mib:.1f} MiB" if 0 < mib < 9.95 else f"{mib:,.0f} MiB"


def number(count: float) -> str:
    """Return a number with separators."""
    return f"{count:,.0f}"
