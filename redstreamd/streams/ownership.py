"""Whose a reply stream and a consumer is. What belongs to another principal does not exist for a caller.

A reply stream's name says who its owner is. A consumer belongs to the principal that first took entries under
its name; the group's hash says who that was (see ``lua/consumer_owner.lua``). For every other principal the
name is free: it stands for a consumer that is called after the principal, too::

    _rs.of <principal> <consumer>

Idempotency keys are `idempotency`'s, leases `lease_tokens`'. Rights are another question, which is asked
before this one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from redstreamd.policy import Principal
from redstreamd.streams.error_context import no_such_stream
from redstreamd.streams.names import is_quarantine, reply_stream_owner

#: The name of a principal has no spaces, so what follows it is the consumer's.
_OF: Final = "_rs.of "


def check_owner(principal: Principal, stream: str) -> None:
    """Return if a stream is neither another principal's reply stream nor a quarantine, existing or not.

    Raises:
        BusError: STREAM_NOT_FOUND.
    """
    owner = reply_stream_owner(stream)
    # A quarantine is nobody's: what waits in it is neither read nor taken.
    if is_quarantine(stream) or (owner is not None and not principal.owns(owner)):
        raise no_such_stream(stream)


@lru_cache(maxsize=1_024)
def consumer_operands(principal: Principal, consumer: str) -> dict[str, Any]:
    """Return the operands of ``lua/consumer_owner.lua`` for a principal that names a consumer.

    Remembered, since the same ones recur. Not to be changed.
    """
    name, *former = principal.names
    alias = f"{_OF}{name} {consumer}"
    if consumer.startswith(_OF):
        # Such a consumer needs no record: its name says whose it is.
        owner = consumer.removeprefix(_OF).partition(" ")[0]
        consumer = alias = consumer if principal.owns(owner) else alias
    return {"consumer": consumer, "owner": name, "former": former[0] if former else "", "alias": alias}
