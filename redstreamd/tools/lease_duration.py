"""The length of a lease, for the tools that give or renew one."""

from __future__ import annotations

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.streams.bus import Bus
from redstreamd.tools.definition import Call


def lease_seconds(call: Call[Bus], requested: float | None) -> float:
    """Return the length of a lease in seconds; without a requested length, the default.

    Raises:
        BusError: INVALID_ARGUMENT beyond the setting `leases.max_lease_seconds`.
    """
    leases = call.bus.settings.leases
    if requested is None:
        return leases.lease_seconds
    if requested > leases.max_lease_seconds:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"lease_seconds={requested:.12g} is too long.",
            cause=f"The setting {setting('leases.max_lease_seconds')} is {leases.max_lease_seconds:.12g}.",
            next_step="Take a shorter lease and renew it with work_extend.",
        )
    return requested
