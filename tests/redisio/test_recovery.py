"""What docs/errors.md promises of each error reply is what happens to a command and to a login."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator

import hiredis
import pytest
import trio

from redstreamd.redisio.error_replies import MAX_CLIENTS, TABLE, UNEXPECTED, Row, reply_error, row_of
from redstreamd.redisio.login import refused
from redstreamd.redisio.reconnecting import reconnect_backoff, reconnect_pause
from redstreamd.redisio.redis_errors import ProblemKind, Recovery, ServerReplied
from redstreamd.redisio.target import Target
from tests.redisio.running import running_node

CASES = [
    (row, f"{row.reply_code or 'ERR'} it {text} here")
    for row in (*TABLE, UNEXPECTED)
    for text in row.texts or ("says no",)
]
each_case = pytest.mark.parametrize(("row", "text"), CASES, ids=[text for _, text in CASES])


@contextlib.asynccontextmanager
async def server_that_refuses_once(text: str) -> AsyncIterator[tuple[Target, list[bytes]]]:
    """A server that answers INCR with an error once and then with 1; and the INCRs that came."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        reader = hiredis.Reader()
        async for data in stream:
            reader.feed(data)
            while (command := reader.gets()) is not False:
                answer = b"+OK\r\n"
                if command[0] == b"INCR":
                    answer = b":1\r\n" if asked else f"-{text}\r\n".encode()
                    asked.append(command[0])
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield Target(host="127.0.0.1", port=listeners[0].socket.getsockname()[1]), asked
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("retry_safe", [False, True])
@each_case
async def test_a_command_is_sent_again_exactly_where_the_table_says_so(
    row: Row, text: str, retry_safe: bool
) -> None:
    with trio.fail_after(60):
        async with server_that_refuses_once(text) as (target, asked), running_node(target) as node:
            if row.recovery is Recovery.NOT_EXECUTED:
                assert await node.execute("INCR", "n", retry_safe=retry_safe) == 1
                assert len(asked) == 2
            else:
                with pytest.raises(ServerReplied) as replied:
                    await node.execute("INCR", "n", retry_safe=retry_safe)
                assert (replied.value.kind, replied.value.code) == (row.kind, row.code)
                assert len(asked) == 1


@each_case
def test_a_reply_belongs_to_its_own_row_and_a_refused_login_waits_as_the_row_says(
    row: Row, text: str
) -> None:
    reply = reply_error(text)
    assert row_of(reply).kind == row.kind
    problem = refused(Target(), "HELLO", reply, username=None)
    if row.kind == MAX_CLIENTS:
        assert problem.kind is ProblemKind.UNREACHABLE
    else:
        serving_soon = row.recovery is Recovery.NOT_EXECUTED
        assert reconnect_pause(reconnect_backoff(), problem, 0) == (0.5 if serving_soon else 30.0)
