"""Random replies of Redis: every call is answered, what needs no Redis goes on, and afterwards all does."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from redstreamd.visible_text import visible
from tests.conftest import FIGURE
from tests.fairness.figures import GOAL_PEAK
from tests.fuzz import forget_peak, peak_bytes, seeded
from tests.fuzz.lying_redis import lying_redis
from tests.support.counts import counts
from tests.support.daemon import PROGRAM, home, running_daemon
from tests.support.mcp_client import RawClient, raw_client
from tests.support.servers import Server

CALLS: Final = (
    ("stream_add", {"stream": "s", "entries": [{"n": 1}], "idempotency_key": "k"}),
    ("stream_add", {"stream": "s", "entries": [{"n": 1}]}),
    ("stream_read", {"stream": "s", "filter": {"n": 1}}),
    ("stream_read", {"stream": "s"}),
    ("stream_list", {}),
    ("stream_health", {"stream": "s"}),
    ("stream_wait", {"streams": ["s"], "timeout_seconds": 0.2}),
    ("work_take", {"stream": "s", "group": "g", "consumer": "c", "timeout_seconds": 0.2}),
    ("pending_list", {"stream": "s", "group": "g"}),
    ("request_reply", {"stream": "s", "entry": {"a": 1}, "timeout_seconds": 0.1}),
)
#: Seconds within which a call is answered, whatever Redis does: the time limit of a call, and some.
ANSWERED: Final = 70.0
#: Seconds within which it is done again, once Redis tells the truth: a refused login is tried again after 30.
RECOVERED: Final = 45.0


async def calling(path: str, number: int, is_over: Callable[[], bool], answers: list[dict[str, Any]]) -> None:
    """Make one call after the other; each is answered."""
    async with raw_client(path, era="modern") as client:
        while not is_over():
            tool, arguments = CALLS[number % len(CALLS)]
            number += 1
            with trio.fail_after(ANSWERED):
                answer = await client.call_tool(tool, arguments)
            answers.append(answer)


async def without_redis(path: str, is_over: Callable[[], bool]) -> None:
    """Ask for what needs no Redis, once at least; each is answered."""
    count = 0
    async with raw_client(path, initialize=True) as client:
        while not count or not is_over():
            with trio.fail_after(ANSWERED):
                assert "result" in await client.call("ping")
                assert "result" in await client.call("tools/list")
            count += 1
            await trio.sleep(0.005)


async def until_done(client: RawClient, tool: str, arguments: Mapping[str, Any]) -> None:
    """Return once a call is done."""
    ends = trio.current_time() + RECOVERED
    while (answer := await client.call_tool(tool, arguments))["result"]["isError"]:
        assert trio.current_time() < ends, answer
        await trio.sleep(0.05)


async def lied_to(
    server: Server, seconds: float, place: Path, rng: random.Random, repeat: str
) -> tuple[str, str]:
    """Run a daemon on a lying Redis for so many seconds; return its log and a sentence of figures."""

    answers: list[dict[str, Any]] = []
    async with lying_redis(server.path, rng, at_login=seconds > 10) as liar:
        url = f"redis://127.0.0.1:{liar.port}"
        # It starts without Redis, since nothing else runs here meanwhile.
        with running_daemon("absent", directory=place, REDIS_URL=url) as daemon:
            forget_peak(daemon.process.pid)
            async with raw_client(daemon.path, era="modern") as client:
                await until_done(client, *CALLS[1])
            liar.honest = False
            until = trio.current_time() + seconds

            def is_over() -> bool:
                return trio.current_time() >= until and liar.lies > 0

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(calling, daemon.path, number, is_over, answers)
                await without_redis(daemon.path, is_over)
            told = await trio.to_thread.run_sync(
                partial(
                    subprocess.run,
                    [PROGRAM, "status", "--socket", daemon.path],
                    capture_output=True,
                    check=False,
                    text=True,
                    timeout=60,
                )
            )
            liar.honest = True
            async with raw_client(daemon.path, era="modern") as client:
                for tool, arguments in CALLS:
                    await until_done(client, tool, arguments)
            peak = peak_bytes(daemon.process.pid)
    lies = liar.lies
    assert all(line == visible(line) for line in (told.stdout + told.stderr + daemon.log).split("\n")), repeat
    for answer in answers:
        text = json.dumps(answer, ensure_ascii=False)
        assert "result" in answer, f"{repeat}: {text[:500]}"
    assert peak <= GOAL_PEAK, repeat
    internal = sum(
        (each["result"].get("structuredContent") or {}).get("code") == "INTERNAL" for each in answers
    )
    return daemon.log, (
        f"fuzz ({repeat}): {lies} lies of Redis, {len(answers)} calls answered, {internal} INTERNAL, "
        f"peak {peak >> 20} MiB"
    )


@pytest.mark.parametrize("seconds", counts(1.5, ci=30, full=1_200))
@pytest.mark.limit(120, seconds=3)
def test_whatever_redis_replies_the_daemon_goes_on_and_recovers(
    seconds: float, redis: Server, record_property: Callable[[str, object], None]
) -> None:
    rng, repeat = seeded("replies")
    with home() as place:
        log, figure = trio.run(lied_to, redis, seconds, place, rng, repeat)
    record_property(FIGURE, figure)
    print(log)
    # The sampler begins anew at a reply that it does not understand. What holds connections does not.
    failed = re.findall(r"^\S+ \S+ +(.*) failed \(", log, re.MULTILINE)
    assert set(failed) <= {"sampler"}, repeat
