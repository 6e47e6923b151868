"""Serves one request without a connection: in a session of its own, until it is answered."""

from __future__ import annotations

import secrets

import trio

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.mcpio.connection_events import EventHook
from redstreamd.mcpio.kernels import Kernels
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.session import Session, Task
from redstreamd.policy import Principal


class _Answer:
    """The sink of the one answer."""

    def __init__(self) -> None:
        self.line = b""
        self.received = trio.Event()

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Drop a notification."""

    def answer(self, line: bytes, *, is_last: bool = False) -> None:
        if not self.line:
            self.line = line
            self.received.set()

    def unanswered(self, request_id: object) -> None:
        """Do nothing: nobody cancels the request."""


async def answer_one(
    kernels: Kernels, limits: Limits, line: bytes, principal: Principal, report: EventHook
) -> bytes:
    """Return the line that answers a request.

    Args:
        kernels: Serve it.
        limits: Bounds of the message.
        line: The request.
        principal: On whose behalf it is made.
        report: Called with events of defects.
    """
    sink = _Answer()

    async def flushed() -> None:
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:

        def start_soon(task: Task) -> bool:
            nursery.start_soon(task)
            return True

        connection_id = secrets.token_hex(8)
        session = Session(
            kernels,
            connection_id=connection_id,
            principal=principal,
            # Of its own: nobody's place in a queue or share matters for the one request.
            account=Accounts().open(principal, Peer(), connection_id),
            limits=limits,
            sink=sink,
            start_soon=start_soon,
            flushed=flushed,
            draining=LateEvent(),
            report=report,
        )
        try:
            await session.handle(line, sink)
            await sink.received.wait()
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await session.aclose()
    return sink.line
