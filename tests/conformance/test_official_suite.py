"""The official suite (npm @modelcontextprotocol/conformance) judges the daemon over HTTP, in each revision.

Every scenario for servers runs that a revision has. What cannot pass is in expected_failures.toml, check by
check. Scenarios of extensions do not run: none is offered.

test_requirements.py and test_stateless.py ask much of the same over the socket.
"""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.support.daemon import clean_environment
from tests.support.http_daemon import HttpDaemon, running_http_daemon
from tests.support.node import BIN
from tests.support.servers import Server
from tests.support.streamable_client import REVISIONS

# A run of all scenarios takes three seconds, or eleven where some wait for what does not come.
pytestmark = pytest.mark.limit(180)

EXPECTED = Path(__file__).with_name("expected_failures.toml")

#: How often a scenario is judged again that did not pass.
RETRIALS = 3

Checks = dict[str, dict[str, str]]
"""By scenario and check, what the suite has to say."""


@attrs.frozen
class Verdict:
    """What the suite found in a revision.

    Attributes:
        scenarios: The scenarios that ran.
        passed: How many checks passed.
        failed: Those that did not.
    """

    scenarios: frozenset[str]
    passed: int
    failed: Checks


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

    async def judge(self, url: str, revision: str, *which: str) -> Verdict:
        """Run all scenarios of a revision, or `which`.

        Raises:
            AssertionError: Nothing was checked, or the suite's exit status does not fit its report.
        """
        which = which or ("--suite", "all")
        place = Path(tempfile.mkdtemp(dir=self.place))
        where = ("--url", url, "--output-dir", str(place), "--timeout", "120000")
        status, said = await self.say("server", *where, "--spec-version", revision, *which)
        reports = reports_in(place)
        checks = [(name, check) for name, report in reports.items() for check in report]
        failed: Checks = {}
        for name, check in checks:
            if check["status"] not in ("SUCCESS", "INFO"):
                why = f"{check['status']}: {check.get('errorMessage') or check['description']}"
                failed.setdefault(name, {})[check["id"]] = why
        passed = sum(check["status"] == "SUCCESS" for _, check in checks)
        assert passed, f"nothing was shown: {said}"
        assert (status != 0) == any(check["status"] == "FAILURE" for _, check in checks), said
        return Verdict(frozenset(reports), passed, failed)


def reports_in(place: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the checks of each scenario that the suite has left in a directory."""
    return {
        re.sub(r"-\d{4}-\d\d-\d\dT.*", "", path.parent.name.removeprefix("server-")): json.loads(
            path.read_text("utf-8")
        )
        for path in place.glob("server-*/checks.json")
    }


def expected(scenarios: frozenset[str]) -> dict[str, set[str]]:
    """Return the checks of some scenarios that cannot pass."""
    found: dict[str, set[str]] = {}
    for by_scenario in tomllib.loads(EXPECTED.read_text("utf-8")).values():
        for scenario, checks in by_scenario.items():
            if scenario in scenarios:
                found.setdefault(scenario, set()).update(checks)
    return found


def unexpected(verdict: Verdict) -> list[str]:
    """Return what is not as expected: checks that did not pass, and expected failures that passed."""
    known = expected(verdict.scenarios)
    failed = {(scenario, check) for scenario, checks in verdict.failed.items() for check in checks}
    named = {(scenario, check) for scenario, checks in known.items() for check in checks}
    wrong = [f"{scenario}: {check}: {verdict.failed[scenario][check]}" for scenario, check in failed - named]
    return sorted(wrong + [f"{scenario}: {check} passed" for scenario, check in named - failed])


@pytest.fixture
def suite(conformance_suite: Path, tmp_path: Path) -> Suite:
    return Suite(conformance_suite, tmp_path)


@pytest.fixture(scope="module")
def scenarios(
    conformance_suite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, frozenset[str]]:
    """The scenarios for servers, and in which revisions each is."""
    suite = Suite(conformance_suite, tmp_path_factory.mktemp("suite"))
    status, said = trio.run(suite.say, "list", "--server")
    assert status == 0, said
    found = re.findall(r"^  - (\S+) \[(\S+)\]$", said, re.MULTILINE)
    return {name: frozenset(revisions.split(",")) for name, revisions in found}


@pytest.fixture(scope="module")
def http(redis_server: Server) -> Iterator[HttpDaemon]:
    """A daemon as it is installed, on a Redis with one stream."""
    redis_server.flush()
    redis_server.command("XADD", "shop:orders:paid", "*", "order", "1")
    with running_http_daemon(redis_server) as running:
        yield running


@pytest.mark.parametrize("revision", REVISIONS)
async def test_the_daemon_passes_whatever_a_revision_has(
    http: HttpDaemon, suite: Suite, scenarios: Mapping[str, frozenset[str]], revision: str
) -> None:
    verdict = await suite.judge(http.url, revision)
    for _ in range(RETRIALS):
        # Some checks wait for less than a second, which the machine may be busy for.
        for scenario in {wrong.partition(":")[0] for wrong in unexpected(verdict)}:
            again = await suite.judge(http.url, revision, "--scenario", scenario)
            verdict.failed[scenario] = again.failed.get(scenario, {})
    assert unexpected(verdict) == []
    # None was left out.
    assert verdict.scenarios == {name for name, revisions in scenarios.items() if revision in revisions}


def test_every_expected_failure_is_of_a_scenario_that_runs(scenarios: Mapping[str, frozenset[str]]) -> None:
    run = {name for name, revisions in scenarios.items() if revisions & {*REVISIONS}}
    assert {name for name, revisions in scenarios.items() if name not in run} == {
        name for name, revisions in scenarios.items() if revisions == {"extension"}
    }
    assert {name for names in tomllib.loads(EXPECTED.read_text("utf-8")).values() for name in names} <= run


#: Changes of what the daemon sends that keep its length, and the checks that find them.
LIES = {
    "2025-06-18": {
        (b'"inputSchema"', b'"inputSchemo"'): ("tools-list", "wire-schema-valid"),
        (b"HTTP/1.1 404", b"HTTP/1.1 410"): (
            "server-session-lifecycle",
            "server-session-terminated-returns-404",
        ),
    },
    "2026-07-28": {
        (b'"inputSchema"', b'"inputSchemo"'): ("tools-list", "wire-schema-valid"),
        (b'"ttlMs":', b'"ttlmS":'): ("caching", "sep-2549-tools-list-caching-hints"),
        (b"-32601", b"-32600"): ("server-stateless", "sep-2575-http-server-method-not-found-404"),
        (b"-32020", b"-32602"): ("http-header-validation", "sep-2243-server-reject-error-code"),
        (b"HTTP/1.1 421", b"HTTP/1.1 200"): (
            "dns-rebinding-protection",
            "localhost-host-rebinding-rejected",
        ),
    },
}


@pytest.mark.parametrize("revision", LIES)
async def test_what_the_daemon_would_say_wrong_is_found(
    http: HttpDaemon, suite: Suite, revision: str
) -> None:
    """The suite reads what the daemon sends, and its verdict arrives here."""
    lies = LIES[revision]
    async with misquoting(http, list(lies)) as (url, told):
        verdict = await suite.judge(url, revision)
    assert told == {said for said, _ in lies}
    named = expected(verdict.scenarios)
    for scenario, check in lies.values():
        found = verdict.failed.get(scenario, {}).keys() - named.get(scenario, set())
        assert check in found, (scenario, verdict.failed)


async def test_a_scenario_that_checks_nothing_does_not_pass(http: HttpDaemon, suite: Suite) -> None:
    """The suite skips it, with success, because the revision has no such thing."""
    with pytest.raises(AssertionError, match="SKIPPED"):
        await suite.judge(http.url, "2026-07-28", "--scenario", "ping")


@asynccontextmanager
async def misquoting(
    http: HttpDaemon, lies: list[tuple[bytes, bytes]]
) -> AsyncIterator[tuple[str, set[bytes]]]:
    """Serve the daemon at another address for the block, with other words in the place of some.

    Gives the address, and which of the words have been replaced so far.
    """
    told: set[bytes] = set()
    assert all(len(said) == len(changed) for said, changed in lies)

    async def pass_on(client: trio.SocketStream, server: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in client:
                await server.send_all(data)
        await server.aclose()

    async def link(client: trio.SocketStream) -> None:
        async with client, await http.connect() as server, trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, client, server)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in server:
                    for said, changed in lies:
                        if said in data:
                            told.add(said)
                            data = data.replace(said, changed)
                    await client.send_all(data)
            nursery.cancel_scope.cancel()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, link, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/mcp", told
        nursery.cancel_scope.cancel()
