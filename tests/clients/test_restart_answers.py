"""What a client of the bridge is answered while the daemon is away, and what is in Redis then."""

from __future__ import annotations

import itertools
import signal
from functools import partial
from typing import Any

import pytest
import trio

from redstreamd.streams import takes
from tests.clients.bridged_client import LineClient, both_eras, bridge_words, connections_to, line_client
from tests.clients.restarted_host import FAULTS, Fault, Host, running_host
from tests.support.mcp_client import EraName
from tests.support.proxy import proxy_to
from tests.support.servers import Server
from tests.support.waiting import until

ERAS: tuple[EraName, EraName] = ("handshake", "modern")


async def send_each(client: LineClient, era: EraName) -> dict[str, Any]:
    """Send a request of each kind, and return their ids."""
    adding: dict[str, Any] = {"entries": [{"n": 1}]}
    taking: dict[str, Any] = {"group": "workers", "consumer": "worker", "count": 1}
    key = {"idempotency_key": "k"}
    return {
        "add with a key": await client.send_call("stream_add", {"stream": f"keyed:{era}", **adding, **key}),
        "add": await client.send_call("stream_add", {"stream": f"plain:{era}", **adding}),
        "take with a key": await client.send_call(
            "work_take", {"stream": f"jobs:keyed:{era}", **taking, **key}
        ),
        "take": await client.send_call("work_take", {"stream": f"jobs:plain:{era}", **taking}),
        "read": await client.send_call("stream_read", {"stream": "old"}),
        "read of a resource": await client.send("resources/read", {"uri": "redstream://streams/old"}),
    }


def prepare(redis: Server) -> None:
    """Make what the requests of `send_each` ask for."""
    redis.command("XADD", "old", "*", "n", "1")
    for era, kind in itertools.product(ERAS, ("keyed", "plain")):
        # An add to a stream that is new takes two commands.
        redis.command("XADD", f"{kind}:{era}", "*", "n", "0")
        redis.command("XADD", f"jobs:{kind}:{era}", "*", "n", "1")
        redis.command("XGROUP", "CREATE", f"jobs:{kind}:{era}", "workers", "0")


def stored(redis: Server, era: EraName) -> tuple[int, ...]:
    """Return how many entries were added with a key and without, and how many are taken so."""
    added = [redis.command("XLEN", f"{kind}:{era}") - 1 for kind in ("keyed", "plain")]
    taken = [redis.command("XPENDING", f"jobs:{kind}:{era}", "workers")[0] for kind in ("keyed", "plain")]
    return *added, *taken


def content(message: dict[str, Any]) -> dict[str, Any]:
    """Return the structured content of a call's answer."""
    assert "result" in message, message
    result: dict[str, Any] = message["result"]["structuredContent"]
    return result


def check_unknown(message: dict[str, Any]) -> None:
    """Check that an answer says that the outcome is unknown, and what to do about that."""
    assert message["result"]["isError"], message
    assert content(message)["code"] == "OUTCOME_UNKNOWN"
    assert content(message)["next_step"]
    assert content(message)["next_step"] in message["result"]["content"][0]["text"]


def check_answers(
    redis: Server, era: EraName, answers: dict[str, dict[str, Any]], *, known: bool, once: bool
) -> None:
    """Compare the answers to the requests of `send_each` with what is in Redis.

    Args:
        redis: The server.
        era: Of the client.
        answers: By kind.
        known: Whether the outcome of all is.
        once: Whether what was sent without a key was executed.
    """
    assert not content(answers["add with a key"]).get("code"), answers["add with a key"]
    _, (entry_id, _) = redis.command("XRANGE", f"keyed:{era}", "-", "+")
    assert content(answers["add with a key"])["ids"] == [entry_id.decode()]
    assert len(content(answers["take with a key"])["entries"]) == 1
    assert content(answers["take with a key"])["lease"]
    assert len(content(answers["read"])["entries"]) == 1
    if known:
        assert content(answers["add"])["ids"]
        assert content(answers["take"])["lease"]
    else:
        check_unknown(answers["add"])
        check_unknown(answers["take"])
    assert stored(redis, era) == (1, once, 1, once)
    resource = answers["read of a resource"]
    if "error" in resource:
        assert not known
        assert resource["error"]["code"] == -32000
        assert resource["error"]["message"]
    else:
        assert resource["result"]["contents"]


async def answers_to(client: LineClient, ids: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the answers to the requests of `send_each`, by kind."""
    return {kind: await client.answer(each) for kind, each in ids.items()}


async def check_goes_on(clients: dict[EraName, LineClient]) -> None:
    """Check that the sessions go on, and that every request was answered once."""
    for client in clients.values():
        added = await client.call_tool("stream_add", {"stream": "new", "entries": [{}]})
        assert content(added)["ids"]
        assert await client.finish() == []


@FAULTS
@pytest.mark.limit(60)
async def test_what_redis_has_executed_is_answered_with_what_is_known_of_it(
    redis: Server, fault: Fault
) -> None:
    """Its replies are held up, until the daemon is gone or has been stopped for a while."""
    prepare(redis)
    async with proxy_to(redis.path) as proxy:
        variables = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}", "REDSTREAMD_DAEMON_DRAIN_SECONDS": "0.5"}
        with running_host("absent", **variables) as host:
            async with both_eras(bridge_words(host.path)) as clients:
                # So that the daemon has connected, and Redis knows its scripts.
                for era, client in clients.items():
                    for answer in (await answers_to(client, await send_each(client, era))).values():
                        assert "result" in answer
                redis.flush()
                prepare(redis)
                # Sooner, a take would look for what is new only, and then need a second command.
                await trio.sleep(takes.NO_SCAN_SECONDS)
                proxy.to_client.hold()
                ids = {era: await send_each(client, era) for era, client in clients.items()}
                await until(lambda: all(stored(redis, era) == (1, 1, 1, 1) for era in ERAS))
                release = partial(trio.from_thread.run_sync, proxy.to_client.release)
                await trio.to_thread.run_sync(partial(host.suffer, fault, release))
                for era, client in clients.items():
                    answers = await answers_to(client, ids[era])
                    check_answers(redis, era, answers, known=fault is Fault.STOP, once=True)
                await check_goes_on(clients)


async def test_what_a_killed_daemon_has_not_read_is_answered_with_what_is_known_of_it(
    redis: Server, host: Host
) -> None:
    prepare(redis)
    async with both_eras(bridge_words(host.path)) as clients:
        for client in clients.values():
            await client.call_tool("stream_read", {"stream": "old"})
        host.daemon.process.send_signal(signal.SIGSTOP)
        ids = {era: await send_each(client, era) for era, client in clients.items()}
        # Forwarded while there was a daemon; what the bridge still has is sent to the next one.
        await until(lambda: all(client.bridge_has_forwarded() for client in clients.values()))
        await trio.to_thread.run_sync(partial(host.suffer, Fault.KILL))
        for era, client in clients.items():
            check_answers(redis, era, await answers_to(client, ids[era]), known=False, once=False)
        await check_goes_on(clients)


@pytest.mark.parametrize("fault", [Fault.RESTART, Fault.KILL], ids=lambda fault: fault.value)
async def test_what_is_sent_while_nobody_serves_is_executed_once(
    redis: Server, host: Host, fault: Fault
) -> None:
    prepare(redis)
    async with both_eras(bridge_words(host.path)) as clients:
        ids: dict[EraName, dict[str, Any]] = {}

        async def send() -> None:
            for era, client in clients.items():
                ids[era] = await send_each(client, era)

        await trio.to_thread.run_sync(partial(host.suffer, fault, lambda: trio.from_thread.run(send)))
        for era, client in clients.items():
            check_answers(redis, era, await answers_to(client, ids[era]), known=True, once=True)
        await check_goes_on(clients)


async def test_a_first_request_that_a_daemon_did_not_answer_is_answered_by_the_next(
    redis: Server, host: Host
) -> None:
    """In the handshake era that is the handshake."""
    listed: list[dict[str, Any]] = []

    async def ask(era: EraName) -> None:
        async with line_client(bridge_words(host.path), era=era) as client:
            listed.append(content(await client.call_tool("stream_list")))
            assert await client.finish() == []

    host.daemon.process.send_signal(signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        for era in ERAS:
            nursery.start_soon(ask, era)
        await until(lambda: connections_to(host.path) == len(ERAS))
        await trio.to_thread.run_sync(partial(host.suffer, Fault.KILL))
    assert [each["streams"] for each in listed] == [[], []]
