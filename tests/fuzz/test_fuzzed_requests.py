"""Random lines on real connections, in both eras: each is answered or ignored, nobody else is disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio

from tests.conftest import FIGURE
from tests.fairness.field import Field
from tests.fairness.figures import GOAL_PEAK, LONGEST_TURN
from tests.fuzz import forget_peak, peak_bytes, seeded
from tests.fuzz.requests import Lines
from tests.support.counts import counts
from tests.support.daemon import running_daemon
from tests.support.mcp_client import EraName, RawClient, open_stream, raw_client
from tests.support.measured import measured
from tests.support.servers import Server

#: Lines on one connection, after which there is a new one.
LINES: Final = 60
#: Lines between two questions whether the connection still answers.
STEP: Final = 6
CONNECTIONS: Final = 3
#: What the daemon writes to its log about a defect.
DEFECTS: Final = ("failed unexpectedly", "Traceback", "defect of ours", "is started again", "Internal error")


@attrs.define
class Seen:
    """What came of the lines.

    Attributes:
        lines: How many were sent.
        answers: How many messages came back.
        defects: Messages that say that something failed unexpectedly.
    """

    lines: int = 0
    answers: int = 0
    defects: list[str] = attrs.field(factory=list)

    def take(self, message: Any) -> None:
        """Look at a message of the daemon."""
        assert isinstance(message, dict), message
        assert message["jsonrpc"] == "2.0", message
        assert "method" in message or ("result" in message) != ("error" in message), message
        self.answers += 1
        if message.get("error", {}).get("code") == -32603 or is_internal(message.get("result")):
            self.defects.append(json.dumps(message)[:1_000])


def is_internal(result: Any) -> bool:
    """Return whether a result of a tool is the error of a defect."""
    return isinstance(result, dict) and (result.get("structuredContent") or {}).get("code") == "INTERNAL"


async def fuzz(path: str, make: Lines, seen: Seen, until: float) -> None:
    """Send lines over one connection after the other; after each few it has to answer a request."""
    while trio.current_time() < until:
        async with await open_stream(path) as stream:
            client = RawClient(stream, era=make.era)
            # What a connection opens with decides whether it is one of MCP at all.
            if make.era == "handshake":
                await client.initialize()
            else:
                await client.call("server/discover")
            for number in range(0, LINES, STEP):
                # The newline ends what is no whole line.
                await client.send_bytes(b"".join(make.line() for _ in range(STEP)) + b"\n")
                seen.lines += STEP
                probe = client.request("tools/list", request_id=f"probe {number}")
                await client.send(probe)
                with trio.fail_after(60):
                    seen.take(await client.answer_to(probe["id"]))
                for message in client.passed_over:
                    seen.take(message)
                client.passed_over.clear()


async def tools_of(path: str) -> list[dict[str, Any]]:
    """Return the tools that the daemon lists."""
    async with raw_client(path, initialize=True) as client:
        answer = await client.call("tools/list")
    tools: list[dict[str, Any]] = answer["result"]["tools"]
    return tools


async def attacked(field: Field, seconds: float, profile: Callable[[str, EraName], Lines], seen: Seen) -> Any:
    """Send lines in both eras for so many seconds, and return what the polite client saw meanwhile."""
    path = field.daemon.path
    polite: list[Any] = []
    async with trio.open_nursery() as nursery:
        until = trio.current_time() + seconds
        for number in range(CONNECTIONS):
            for era in ("handshake", "modern"):
                nursery.start_soon(fuzz, path, profile(f"{era} {number}", era), seen, until)
        polite.append(await trio.to_thread.run_sync(field.alone, seconds))
    return polite[0]


@pytest.mark.parametrize("seconds", counts(1.5, ci=30, full=1_200))
@pytest.mark.limit(120, seconds=3)
def test_no_line_crashes_the_daemon_or_disturbs_another_client(
    seconds: float, redis: Server, record_property: Callable[[str, object], None]
) -> None:
    rng, repeat = seeded("requests")
    print(repeat)
    seen = Seen()
    # The profile of operators has all tools.
    with running_daemon(redis, "--set", "tools.profile=operator") as daemon:
        field = Field(redis, daemon)
        field.prepare()
        alone = field.alone(0.3)
        tools = trio.run(tools_of, daemon.path)
        seeds = {name: rng.random() for name in map(str, range(CONNECTIONS))}

        def lines(name: str, era: EraName) -> Lines:
            own, _ = seeded(f"{name} {seeds[name.split()[1]]}")
            return Lines(own, era, tools)

        forget_peak(daemon.process.pid)
        polite = trio.run(partial(attacked, field, seconds, lines, seen))
        peak = peak_bytes(daemon.process.pid)
        # It answers, and what was acknowledged is there.
        beside, before = polite.p50(fair=True), alone.p50(fair=True)
        record_property(
            FIGURE,
            f"fuzz ({repeat}): {seen.lines} lines, {seen.answers} answers, peak {peak >> 20} MiB; a polite "
            f"client p50 {', '.join(f'{each:.1f}' for each in beside)} ms",
        )
        field.judge()
        log = daemon.log
    assert (seen.defects, [each for each in DEFECTS if each in log]) == ([], []), f"{repeat}\n{log[-3_000:]}"
    assert seen.lines >= 2 * CONNECTIONS * STEP, repeat
    assert (polite.lost, polite.refused) == (0, []), repeat
    assert peak <= GOAL_PEAK, repeat
    with measured:
        assert all(
            there <= 3 * alone_ms + LONGEST_TURN for there, alone_ms in zip(beside, before, strict=True)
        ), f"{repeat}: {beside} ms, alone {before} ms"
