"""Telling many clients: in parts, and before the new work of clients."""

from __future__ import annotations

import os
from collections.abc import Iterator

import trio
import trio.testing

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.admission.turns import ACCOUNT, next_turn, turns
from redstreamd.policy import Principal
from redstreamd.streams.background import Background


async def test_who_waits_for_a_turn_gets_it_once_all_were_told() -> None:
    background, order = Background(), list[object]()
    account = Accounts().open(Principal("me", "unix"), Peer(os.getuid(), 1), "one")

    def telling() -> Iterator[None]:
        for part in range(4):
            order.append(part)
            yield

    async def new_work() -> None:
        ACCOUNT.set(account)
        await next_turn()
        order.append("turn")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as working:
            working.start_soon(new_work)
            background.spread(telling())
        assert order == [0, 1, 2, 3, "turn"]
        # Also after an interruption of the telling.
        order.clear()
        background.spread(telling())
        nursery.cancel_scope.cancel()
    assert not turns().is_telling
    await new_work()
    assert order[-1] == "turn"
    assert 3 not in order
