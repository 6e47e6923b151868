"""What tools that give or renew a lease have in common: how long it may be."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.streams.bus import Bus
from redstreamd.tools.definition import Call

Seconds = Annotated[float, Meta(ge=1, le=30 * 86_400, description="Length of the lease in seconds.")]


def lease_seconds(call: Call[Bus], asked: float | None) -> float:
    """Return the length of a lease: what was asked for, or the default.

    Raises:
        BusError: INVALID_ARGUMENT beyond the setting `leases.max_lease_seconds`.
    """
    leases = call.bus.settings.leases
    if asked is None:
        return leases.lease_seconds
    if asked > leases.max_lease_seconds:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"lease_seconds={asked:.12g} is too long.",
            cause=f"The setting {setting('leases.max_lease_seconds')} is {leases.max_lease_seconds:.12g}.",
            next_step="Take a shorter lease and renew it with work_extend.",
        )
    return asked
