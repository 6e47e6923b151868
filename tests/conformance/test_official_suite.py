"""The official suite (npm @modelcontextprotocol/conformance) judges the daemon, through the gateway.

Of its scenarios for servers those run that are about what a server says, and for which it needs nothing that
only a server made to be tested has. The others are

- about HTTP, where the gateway would be judged, and left for a door that speaks it: sessions in a header, and
  what DELETE does to them; Host and Origin; headers that repeat what the body says; streams of events, and
  how many at once. What a session is on a socket is in test_requirements.py.
- for tools, prompts and resources of the suite's own, such as `test_simple_text`. Some of them are content
  with the error that there is none, which would show nothing.
- for what is optional and not offered: logging, tasks, skills.

test_requirements.py and test_stateless.py ask the same of the socket itself at each `make test`, and need no
network.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from fnmatch import fnmatch
from pathlib import Path

import attrs
import pytest
import trio

from tests.conformance.gateway import gateway
from tests.support.counts import LONG
from tests.support.daemon import Daemon, clean_environment, home
from tests.support.mcp_client import LineReader
from tests.support.node import BIN

pytestmark = pytest.mark.limit(90)

# A second or three each, most of them for starting Node.js.
pytestmark = LONG

#: Seconds for a scenario. They take one; Node.js on a busy machine may take its time to start.
PATIENCE = 90

LEGACY = ("2025-06-18", "2025-11-25")
MODERN = ("2026-07-28",)
JUDGED = {
    "server-initialize": LEGACY,
    "ping": LEGACY,
    "server-stateless": MODERN,
    "tools-list": LEGACY + MODERN,
    "resources-list": LEGACY + MODERN,
    "prompts-list": LEGACY + MODERN,
    "caching": MODERN,
    "sep-2164-resource-not-found": MODERN,
    "input-required-result-unsupported-methods": MODERN,
}
#: Patterns of the names of all others, by the reasons above.
LEFT = {
    "about HTTP": [
        "server-session-lifecycle",
        "server-sse-*",
        "dns-rebinding-protection",
        "http-*",
    ],
    "for names of the suite's own": [
        "tools-call-*",
        "resources-read-*",
        "resources-templates-read",
        "resources-subscribe",
        "resources-unsubscribe",
        "prompts-get-*",
        "completion-complete",
        "elicitation-*",
        "input-required-result-*",
        "json-schema-2020-12",
    ],
    "not offered": ["logging-set-level", "tasks-*", "sep-2640-skills-*"],
}
#: The checks of a scenario that cannot pass, each with its reason.
EXCUSED: Mapping[str, Mapping[str, str]] = {
    "server-stateless": {
        "sep-2575-http-server-header-mismatch-400": "about HTTP: compares a header with the body",
        # Elsewhere "the exact code is implementation-defined", says basic/versioning of 2026-07-28.
        "sep-2575-http-server-method-not-found-404-initialize": "about HTTP: -32601 is the code there",
        "sep-2575-server-rejects-undeclared-capability": "needs the tool test_missing_capability",
        "sep-2575-missing-capability-http-400": "needs the tool test_missing_capability",
        "sep-2575-http-server-no-independent-requests-on-stream": "needs test_streaming_elicitation",
        "sep-2575-server-no-log-without-loglevel": "needs the tool test_logging_tool",
        "sep-2575-server-sends-prompts-list-changed-on-subscription": "skipped: not offered",
        "sep-2575-server-sends-tools-list-changed-on-subscription": "skipped: not offered",
    }
}


@attrs.frozen
class Suite:
    """The suite.

    Attributes:
        program: Its command.
        place: Where it leaves what it found.
    """

    program: Path
    place: Path

    async def say(self, *words: str) -> tuple[int, str]:
        """Run it to its end; return its exit status and what it said."""
        environment = clean_environment(self.place, PATH=f"{BIN}:/usr/bin:/bin")
        done = await trio.run_process(
            [self.program, *words], env=environment, capture_stdout=True, capture_stderr=True, check=False
        )
        return done.returncode, (done.stdout + done.stderr).decode()

    async def judge(self, address: str, scenario: str, revision: str) -> dict[str, str]:
        """Run a scenario and return the checks that did not pass, with what the suite has to say of each.

        Raises:
            AssertionError: Nothing was checked, or the suite's exit status does not fit its report.
        """
        which = ("--scenario", scenario, "--spec-version", revision)
        status, said = await self.say("server", "--url", address, *which, "--output-dir", str(self.place))
        reports = list(self.place.glob(f"server-{scenario}-*/checks.json"))
        assert len(reports) == 1, said
        checks = json.loads(reports[0].read_text("utf-8"))
        not_passed = {
            check["id"]: f"{check['status']}: {check.get('errorMessage') or check['description']}"
            for check in checks
            if check["status"] != "SUCCESS"
        }
        assert {check["id"] for check in checks} - not_passed.keys(), f"nothing was shown: {said}"
        assert (status != 0) == any(check["status"] == "FAILURE" for check in checks), said
        return not_passed


@pytest.fixture
def suite(conformance_suite: Path, tmp_path: Path) -> Suite:
    return Suite(conformance_suite, tmp_path)


@pytest.mark.parametrize(
    ("scenario", "revision"), [(scenario, revision) for scenario in JUDGED for revision in JUDGED[scenario]]
)
async def test_the_daemon_passes(daemon: Daemon, suite: Suite, scenario: str, revision: str) -> None:
    async with gateway(daemon.path) as address:
        not_passed = await suite.judge(address, scenario, revision)
    # An excuse that is not needed any more has to go, too.
    assert not_passed.keys() == EXCUSED.get(scenario, {}).keys(), not_passed


async def test_every_scenario_for_servers_is_judged_or_left_for_a_reason(suite: Suite) -> None:
    status, said = await suite.say("list", "--server")
    assert status == 0, said
    found = dict(re.findall(r"^  - (\S+) \[(\S+)\]$", said, re.MULTILINE))
    assert {name: tuple(found[name].split(",")) for name in JUDGED} == JUDGED
    patterns = {pattern for patterns in LEFT.values() for pattern in patterns}
    left = {name: [each for each in patterns if fnmatch(name, each)] for name in found.keys() - JUDGED.keys()}
    assert all(len(matching) == 1 for matching in left.values()), left
    assert {matching[0] for matching in left.values()} == patterns


@pytest.mark.parametrize(
    ("scenario", "revision", "said", "changed", "check"),
    [
        ("ping", "2025-11-25", b'"result":{}', b'"result":{"x":1}', "ping"),
        ("tools-list", "2026-07-28", b'"inputSchema"', b'"schema"', "wire-schema-valid"),
        ("caching", "2026-07-28", b'"ttlMs":', b'"ttlMs":-', "sep-2549-ttl-non-negative"),
        ("server-stateless", "2026-07-28", b"-32601", b"-32600", "sep-2575-http-server-method-not-found-404"),
    ],
    ids=["ping", "tools", "caching", "methods"],
)
async def test_what_the_daemon_would_say_wrong_is_found(
    daemon: Daemon, suite: Suite, scenario: str, revision: str, said: bytes, changed: bytes, check: str
) -> None:
    """The suite reads the daemon's own words through the gateway, and its verdict arrives here."""
    async with misquoting(daemon.path, said, changed) as path, gateway(path) as address:
        assert check in await suite.judge(address, scenario, revision)


@pytest.mark.parametrize(
    ("scenario", "revision"), [("no-such-scenario", "2025-11-25"), ("ping", "2026-07-28")]
)
async def test_a_scenario_that_checks_nothing_does_not_pass(
    daemon: Daemon, suite: Suite, scenario: str, revision: str
) -> None:
    """One that is unknown; one that the suite skips, with success, because the revision has no such thing."""
    async with gateway(daemon.path) as address:
        with pytest.raises(AssertionError, match=r"SKIPPED|Unknown scenario"):
            await suite.judge(address, scenario, revision)


@asynccontextmanager
async def misquoting(daemon: str, said: bytes, changed: bytes) -> AsyncIterator[str]:
    """Serve the daemon's socket at another path for the block, with `said` changed wherever it says so."""

    async def pass_on(client: trio.SocketStream, server: trio.SocketStream) -> None:
        async for data in client:
            await server.send_all(data)

    async def link(client: trio.SocketStream) -> None:
        async with client, await trio.open_unix_socket(daemon) as server, trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, client, server)
            lines = LineReader(server)
            while (line := await lines.next_line()) is not None:
                await client.send_all(line.replace(said, changed) + b"\n")
            nursery.cancel_scope.cancel()

    with home() as place, trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(place / "sock"))
        listening.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, link, [trio.SocketListener(listening)])
            yield str(place / "sock")
            nursery.cancel_scope.cancel()
