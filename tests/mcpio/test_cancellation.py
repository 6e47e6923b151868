"""Requests that a peer cancels, at whatever moment, are never answered, and never disturb another."""

from __future__ import annotations

import random
from collections import Counter

import attrs
import pytest
import trio

from tests.mcpio.serving import Service, Tools, serving
from tests.support.counts import LONG, long
from tests.support.mcp_client import HANDSHAKE, EraName, RawClient, raw_client

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])


@ERAS
async def test_a_cancelled_request_frees_its_handler_and_is_not_answered(
    service: Service, era: EraName
) -> None:
    async with raw_client(service.path, era=era) as raw:
        if era == "handshake":
            await raw.initialize()
        await raw.send(raw.tool_call("sleep", {"name": "a"}, request_id="a"))
        await service.tools.wait("started", "a")
        await raw.cancel("a")
        await service.tools.wait("ended", "a")
        assert "result" in await raw.call_tool("echo")
        assert raw.passed_over == []


@pytest.mark.parametrize(("sent", "cancelled"), [(7, "7"), ("7", 7)])
async def test_a_cancellation_finds_its_request_in_either_spelling(
    service: Service, sent: int | str, cancelled: int | str
) -> None:
    async with raw_client(service.path, initialize=True) as raw:
        await raw.send(raw.tool_call("sleep", {"name": "a"}, request_id=sent))
        await service.tools.wait("started", "a")
        await raw.cancel(cancelled)
        await service.tools.wait("ended", "a")


async def test_a_handler_that_answers_all_the_same_is_not_heard(service: Service) -> None:
    async with raw_client(service.path, initialize=True) as raw:
        await raw.send(raw.tool_call("stubborn", request_id="a"))
        await service.tools.wait("started", "stubborn")
        await raw.cancel("a")
        await service.tools.wait("ended", "stubborn")
        assert "result" in await raw.call_tool("echo")
        assert raw.passed_over == []


async def test_a_cancelled_request_reports_no_progress_any_more(service: Service) -> None:
    async with raw_client(service.path, initialize=True) as raw:
        params = {"name": "late", "arguments": {}, "_meta": {"progressToken": "p"}}
        await raw.send(raw.request("tools/call", params, request_id="a"))
        await service.tools.wait("started", "late")
        await raw.cancel("a")
        await service.tools.wait("ended", "late")
        assert "result" in await raw.call_tool("echo")
        assert raw.passed_over == []


@pytest.mark.parametrize("others", [0, 1, 3])
async def test_a_cancellation_sent_with_its_request_is_obeyed(service: Service, others: int) -> None:
    async with raw_client(service.path, initialize=True) as raw:
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}}
        long = [raw.tool_call("echo", {"text": "x" * 20_000}, request_id=str(n)) for n in range(others)]
        await raw.send(*long, raw.tool_call("sleep", {"name": "a"}, request_id="a"), cancel)
        await service.tools.wait("ended", "a")
        for n in range(others):
            assert (await raw.receive())["id"] == str(n)
        assert service.acceptor.statistics().requests_in_flight == 0
        assert "result" in await raw.call_tool("echo")
        assert raw.passed_over == []


async def test_the_handshake_cannot_be_cancelled(service: Service) -> None:
    async with raw_client(service.path) as raw:
        hello = raw.request("initialize", HANDSHAKE, request_id="hello")
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "hello"}}
        await raw.send(cancel, hello, cancel)
        assert "result" in await raw.answer_to("hello")


async def test_nobody_can_cancel_the_request_of_another_connection(service: Service) -> None:
    async with (
        raw_client(service.path, initialize=True) as mine,
        raw_client(service.path, initialize=True) as theirs,
    ):
        await mine.send(mine.tool_call("sleep", {"name": "mine", "seconds": 0.1}, request_id="same"))
        await service.tools.wait("started", "mine")
        await theirs.cancel("same")
        assert "result" in await theirs.call_tool("echo")
        assert "result" in await mine.answer_to("same")


@attrs.define
class Player:
    """One client of the random game.

    Attributes:
        names: What each request was called, by id.
        cancelled: Ids whose cancellation was sent.
        answers: What came back, by id.
    """

    raw: RawClient
    label: str
    names: dict[str, str] = attrs.field(factory=dict)
    cancelled: set[str] = attrs.field(factory=set)
    answers: dict[str, list[str]] = attrs.field(factory=dict)

    async def begin(self, name: str, seconds: float) -> str:
        """Send a request, and return its id."""
        request_id = f"id-{name}"
        self.names[request_id] = f"{self.label}-{name}"
        arguments = {"name": self.names[request_id], "seconds": seconds}
        await self.raw.send(self.raw.tool_call("sleep", arguments, request_id=request_id))
        return request_id

    async def cancel(self, request_id: str) -> None:
        """Send a cancellation."""
        self.cancelled.add(request_id)
        await self.raw.cancel(request_id)

    async def play(self, dice: random.Random, moves: int, tools: Tools) -> None:
        """Send requests and cancellations in random order, then end the input.

        It begins and ends with what chance may not bring about: a request that is cancelled while it runs,
        one that is cancelled when it has finished, and one that is not cancelled.
        """
        for name, seconds, state in (("running", 3600, "started"), ("over", 0, "finished")):
            request_id = await self.begin(name, seconds)
            await tools.wait(state, self.names[request_id])
            await self.cancel(request_id)
        for move in range(moves):
            if dice.random() < 0.5 or not self.names:
                # Ids are the same in all clients; names are not.
                await self.begin(str(move), dice.choice([0, 0, 0.0005, 0.002, 3600]))
            else:
                await self.cancel(dice.choice(list(self.names)[-8:]))
            for _ in range(dice.randrange(4)):
                await trio.lowlevel.checkpoint()
        for request_id in self.names:
            if request_id not in self.cancelled and dice.random() < 0.9:
                await self.cancel(request_id)
        await tools.wait("finished", self.names[await self.begin("last", 0)])
        # What is left ends by itself or is cut off a second after the end of the input.
        await self.raw.stream.send_eof()  # type: ignore[attr-defined]

    async def listen(self) -> None:
        """Collect answers until the server closes."""
        for message in await self.raw.receive_rest():
            outcome = "cut off"
            if "result" in message:
                outcome = message["result"]["content"][0]["text"]
            self.answers.setdefault(message["id"], []).append(outcome)


async def play(service: Service, era: EraName, seed: int, moves: int) -> list[Player]:
    """Let three clients play at once."""
    players = []
    for label in ("ann", "bob", "cyd"):
        raw = RawClient(await trio.open_unix_socket(service.path), era=era)
        if era == "handshake":
            await raw.initialize()
        players.append(Player(raw, f"{label}-{seed}"))
    async with trio.open_nursery() as nursery:
        for number, player in enumerate(players):
            nursery.start_soon(player.play, random.Random(f"{seed}-{number}"), moves, service.tools)
            nursery.start_soon(player.listen)
    for player in players:
        await player.raw.stream.aclose()
    return players


@ERAS
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=LONG) for seed in range(2, 5))])
async def test_cancelled_at_random_nothing_is_answered_twice_or_wrongly_or_in_vain(
    service: Service, era: EraName, seed: int
) -> None:
    players = await play(service, era, seed, moves=200)
    check(service, players)


@long
@ERAS
@pytest.mark.limit(600)
async def test_cancelled_at_random_for_long(era: EraName) -> None:
    for seed in range(100, 125):
        async with serving() as service:
            check(service, await play(service, era, seed, moves=400))


def check(service: Service, players: list[Player]) -> None:
    """Compare what was answered with what the handlers did."""
    seen: Counter[str] = Counter()
    for player in players:
        for request_id, name in player.names.items():
            answers = player.answers.get(request_id, [])
            if name in service.tools.finished:
                # It was done before the cancellation got there, if there was one.
                assert answers == [f"slept {name}"]
                seen["finished although cancelled" if request_id in player.cancelled else "finished"] += 1
            elif request_id in player.cancelled:
                assert answers == []
                seen["cancelled" if name in service.tools.started else "cancelled before it began"] += 1
            else:
                assert answers == ["cut off"]
                seen["cut off"] += 1
    # It is no test unless each of these happened.
    assert seen["finished although cancelled"] > 0
    assert seen["cancelled"] > 0
    assert seen["finished"] > 0
    assert service.tools.ended == service.tools.started
