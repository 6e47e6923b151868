"""Waits of calls on the direct path: records, told without a task.

Those who are told the same share its encoding: an answer is the request's id, joined with shared bytes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import trio

from redstreamd.mcpio.exchange import Exchange
from redstreamd.streams.waiting import Sleeper, Told, Wait
from redstreamd.tools.invocation import CANCELLED, OK, Invocation
from redstreamd.tools.results import failure, success


class DirectWait(Sleeper, eq=False, kw_only=True):
    """One call that waits.

    Attributes:
        exchange: Its request.
        invocation: The call; it holds no arguments any more.
        tail: What follows on the members of its result.
        wait: What it waits for.
        answer_bytes: The size of its result; None until it is answered with one.
    """

    exchange: Exchange
    invocation: Invocation[Any]
    tail: bytes
    wait: Wait
    answer_bytes: int | None = None

    @classmethod
    def begin(cls, wait: Wait, exchange: Exchange, invocation: Invocation[Any], tail: bytes) -> DirectWait:
        """Let a call wait; it ends once it is told, or its exchange is cut short."""
        now = trio.current_time()
        self = cls(
            deadline=wait.ends(now),
            began=now,
            account=wait.account or exchange.session.account,
            may_fail=wait.may_fail,
            claim=wait.claim,
            exchange=exchange,
            invocation=invocation,
            tail=tail,
            wait=wait,
        )
        # What the wait needs of them it has.
        invocation.drop_arguments()
        exchange.on_cancel = self.cancel
        wait.join(self)
        return self

    def told(self, told: Told) -> None:
        """Answer with what was found."""
        same = self.wait.same
        key: Hashable = (self.invocation.tool.name, same, self.tail)
        made: tuple[bytes, int] | None = None if same is None else told.made.get(key)
        if made is None:
            try:
                result = success(self.wait.convert(told.found))
            except Exception as error:  # noqa: BLE001 - the boundary: a defect must not end the others' waits
                self.failed(error)
                return
            made = told.made[key] = result.opened + self.tail, result.size
        line, self.answer_bytes = made
        self.exchange.answer(line, b"", at_once=told.at_once)

    def after_told(self) -> None:
        """Report the call, unless it failed."""
        if self.answer_bytes is not None:
            self.invocation.end(OK, self.answer_bytes)

    def failed(self, error: Exception) -> None:
        """Answer with the error."""
        reword = self.wait.reword
        shown = self.invocation.error_to_answer(error if reword is None else reword(error))
        result = failure(shown)
        self.invocation.end(str(shown.code), result.size)
        self.exchange.answer(result.opened, self.tail)

    def cancel(self) -> None:
        """End the call: nobody waits for it any more, or the session ends."""
        if not self.invocation.has_ended:
            self.leave()
            self.invocation.end(CANCELLED)
            self.exchange.answer_unknown()
