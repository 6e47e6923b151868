"""The order of a start: settings, sockets, and only then what takes long to import."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from redstreamd.mcpio.early_kernels import REVISIONS
from tests.support.daemon import PROGRAM, clean_environment, home, request, running_daemon
from tests.support.measured import measured
from tests.support.servers import Server
from tests.support.waiting import wait_until

#: Runs the program with a hook that sees each module before it is imported. Its own words come first: where
#: it notes what it sees, and what it does besides.
WATCHED = """
import os, signal, socket, sys, threading, time
path, act = sys.argv[1:3]
del sys.argv[1:3]
def note(*words):
    with open(path, "a") as file:
        print(*words, file=file)
{actions}
class Watcher:
    def find_spec(self, name, path=None, target=None):
        note("import", threading.current_thread() is threading.main_thread(), name)
        globals()[act](name)
sys.meta_path.insert(0, Watcher())
from redstreamd.cli import main
sys.exit(main())
"""

ACTIONS = """
def watch(name): pass
def connect(name):
    if name == "redstreamd.daemon.serving":
        with socket.socket(socket.AF_UNIX) as client:
            note("connected", client.connect_ex(os.environ["XDG_RUNTIME_DIR"] + "/redstreamd/mcp.sock"))
def stop(name):
    if name == "redis.exceptions":
        os.kill(os.getpid(), signal.SIGTERM)
def hold(name):
    if name == "mcp.server.runner":
        until = time.monotonic() + 60
        while not os.path.exists(path + ".go") and time.monotonic() < until:
            time.sleep(0.01)
def fail(name):
    if name == "mcp.server.runner":
        raise ModuleNotFoundError("No module named 'mcp.server.runner'", name=name)
"""


#: The first module of the second stage, which imports the SDK.
SECOND_STAGE = "redstreamd.daemon.sdk_models"
#: What the SDK's own server class imports beside the kernel: HTTP servers and a command line.
HTTP = {"mcp.server.lowlevel", "starlette", "sse_starlette", "uvicorn", "click", "python_multipart", "httpx2"}


@pytest.fixture
def place() -> Iterator[Path]:
    with home() as directory:
        yield directory


def watched(place: Path, act: str) -> tuple[str, ...]:
    return sys.executable, "-c", WATCHED.format(actions=ACTIONS), str(place / "imports"), act


def noted(place: Path) -> list[list[str]]:
    return [line.split() for line in (place / "imports").read_text().splitlines()]


def serve(place: Path, act: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a daemon that ends by itself."""
    return subprocess.run(
        [*watched(place, act), "serve", *options],
        env=clean_environment(place, REDIS_URL=f"unix://{place}/none"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def names(events: list[list[str]]) -> set[str]:
    return {words[2] for words in events if words[0] == "import"}


def test_sockets_listen_before_what_serves_is_imported(place: Path) -> None:
    program = watched(place, "connect")
    with running_daemon("absent", directory=place, program=program, preload=False, REDIS_URL="unix:///no"):
        pass
    events = noted(place)
    connected = events.index(["connected", "0"])
    before, after = names(events[:connected]), names(events[connected:])
    assert {"trio", "redstreamd.settings"} <= before
    assert not before & {"mcp", "mcp_types", "pydantic", "redis", "hiredis", "anyio"}
    assert {"mcp.server.runner", "redis.exceptions", "redstreamd.streams.bus"} <= after
    # What a plain call needs comes first, and as little as possible.
    first = names(events[: next(i for i, words in enumerate(events) if words[-1] == SECOND_STAGE)])
    assert "redstreamd.mcp_server.direct_calls" in first
    assert not {each.partition(".")[0] for each in first} & {
        "mcp",
        "mcp_types",
        "pydantic",
        "anyio",
        "asyncio",
    }
    assert not first & {
        "redis.commands.core",
        "redis._parsers.base",
        "redis.maint_notifications",
        "redis.client",
    }
    # On the thread, from the first to the last.
    threads = [words[1] for words in events[connected:] if words[-1] in after]
    assert set(threads) == {"False"}, [words for words in events[connected:] if words[1] == "True"]


def _requests(modern: bool) -> Iterator[dict[str, Any]]:
    """Requests of every kind, whatever their answers are."""
    for tool in ("stream_add", "stream_read", "stream_wait", "group_create", "work_take", "stream_health"):
        arguments: dict[str, Any] = {"stream": "start:imports:one"}
        if tool == "stream_add":
            arguments["entries"] = [{"text": "ä"}]
        yield json.loads(request(0, tool, arguments))
    yield {"method": "tools/call", "params": {"name": "stream_add", "arguments": {"stream": 1}}}
    yield {"method": "tools/call", "params": {"name": "none", "arguments": {}}}
    for method in ("tools/list", "resources/list", "resources/templates/list", "prompts/list", "ping", "no"):
        yield {"method": method, "params": {}}
    yield {"method": "server/discover", "params": {}}
    for uri in ("redstream://health", "redstream://streams", "redstream://stream/start:imports:one", "a:b"):
        yield {"method": "resources/read", "params": {"uri": uri}}
        if not modern:
            yield {"method": "resources/subscribe", "params": {"uri": uri}}
            yield {"method": "resources/unsubscribe", "params": {"uri": uri}}
    for prompt in ("design_stream", "diagnose_stream", "drain_queue", "none"):
        yield {"method": "prompts/get", "params": {"name": prompt, "arguments": {"stream": "a:b:c"}}}
    yield {
        "method": "completion/complete",
        "params": {
            "ref": {"type": "ref/prompt", "name": "design_stream"},
            "argument": {"name": "a", "value": "s"},
        },
    }


META = json.loads(request(0, "", {}))["params"]["_meta"]
HELLO = {
    "jsonrpc": "2.0",
    "id": "hello",
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def test_no_call_makes_the_daemon_import_anything(redis: Server, place: Path) -> None:
    """An import would hold up all clients; and the SDK's client and redis-py's are never needed."""
    with (
        running_daemon(redis, directory=place, program=watched(place, "watch"), preload=False) as daemon,
        contextlib.ExitStack() as clients,
    ):
        lines = []
        # A client of each era.
        for greeting in (HELLO, {**HELLO, **json.loads(request(0, "stream_list", {}))}):
            connection = clients.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(60)
            connection.connect(daemon.path)
            lines.append(connection.makefile("rwb"))
            assert "result" in ask(lines[-1], greeting)
        # Said once everything is imported.
        wait_until(lambda: "listens on" in daemon.log)
        before = len(noted(place))
        for modern in (False, True):
            call_everything(lines[modern], modern=modern)
        events = noted(place)
    assert events[before:] == []
    assert not names(events) & {"mcp.client", "mcp.server.mcpserver", "redis.client", "redis.asyncio.client"}
    assert not names(events) & HTTP


def ask(lines: BinaryIO, message: dict[str, Any]) -> dict[str, Any]:
    """Send a request and return its answer."""
    lines.write(json.dumps(message).encode() + b"\n")
    lines.flush()
    while True:
        answer: dict[str, Any] = json.loads(lines.readline())
        if answer.get("id") == message["id"]:
            return answer


def call_everything(lines: BinaryIO, *, modern: bool) -> None:
    failed = 0
    for number, each in enumerate(_requests(modern), 1):
        each["params"].pop("_meta", None)
        if modern:
            each["params"]["_meta"] = META
        answer = ask(lines, {**each, "jsonrpc": "2.0", "id": number})
        failed += "error" in answer
    lines.write(b"{\n")
    lines.flush()
    assert b"-32700" in lines.readline()
    assert 3 <= failed < number / 2


MODELS = """
from redstreamd.daemon import sdk_models
from pydantic import BaseModel
with sdk_models.models_built_later():
    import redstreamd.daemon.sdk_kernels
models = list(sdk_models._models(BaseModel))
print(len(models), sum(each.__pydantic_complete__ for each in models))
sdk_models.build_models()
print(len(models), sum(each.__pydantic_complete__ for each in models))
class Own(BaseModel):
    a: int
print(1, Own.__pydantic_complete__ + 0)
"""


def test_the_models_of_the_sdk_are_built_after_the_first_handshake_can_be_served() -> None:
    done = subprocess.run([sys.executable, "-c", MODELS], capture_output=True, check=True, text=True)
    (models, at_first), (_, at_last), own = ([*map(int, line.split())] for line in done.stdout.splitlines())
    assert models > 300
    assert at_first < models / 10
    assert at_last == models
    # Nobody else's models are meant.
    assert own == [1, 1]


COLLECTOR = """
import gc
from redstreamd.startup.start_without_collector import collect_as_usual, collect_nothing
collect_nothing()
print(gc.isenabled(), gc.get_freeze_count())
collect_as_usual()
print(gc.isenabled(), gc.get_freeze_count() > 1_000, len(gc.get_objects()) < 100)
"""


def test_no_garbage_is_looked_for_during_a_start_and_what_is_there_afterwards_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTOR], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["False", "0", "True", "True", "True"]


def processor_time(*words: str, place: Path) -> float:
    """Run a program and return its processor time, of which other programs take nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, env=clean_environment(place), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def processor_time_until_answered(server: Server, line: bytes) -> float:
    """Start a daemon, make a first request, and return its processor time when the answer is there."""
    with home() as directory, (directory / "log").open("ab") as log:
        environment = clean_environment(directory, REDIS_URL=f"unix://{server.path}")
        with subprocess.Popen([PROGRAM, "serve"], env=environment, stdout=log, stderr=log) as process:
            try:
                with connected(directory) as connection:
                    connection.sendall(line)
                    assert b'"result"' in connection.makefile("rb").readline()
                    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            finally:
                process.terminate()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_first_plain_call_costs_little_more_than_the_libraries_it_needs(redis: Server, place: Path) -> None:
    """About two and a half times as long as importing trio, where the SDK's import takes part."""
    libraries = min(processor_time(sys.executable, "-c", "import trio", place=place) for _ in range(2))
    # Once is enough, if it is as fast.
    first_calls = (processor_time_until_answered(redis, CALL) for _ in range(3))
    with measured:
        assert any(seconds < 3.2 * libraries for seconds in first_calls)


def test_a_first_handshake_costs_less_than_the_import_of_the_sdks_server(redis: Server, place: Path) -> None:
    """All the rest of the daemon included. It was 1.1 times as long, and is 0.7 times."""
    sdk = min(
        processor_time(sys.executable, "-c", "import mcp.server.lowlevel", place=place) for _ in range(2)
    )
    greeting = json.dumps(HELLO).encode() + b"\n"
    # Once is enough, if it is as fast.
    handshakes = (processor_time_until_answered(redis, greeting) for _ in range(2))
    with measured:
        assert any(seconds < 0.9 * sdk for seconds in handshakes)


def test_invalid_settings_cost_less_than_importing_trio(place: Path) -> None:
    def seconds(*words: str) -> float:
        """Processor time, of which other programs take nothing."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(words, env=clean_environment(place), capture_output=True, check=False)
        assert done.returncode == (78 if "serve" in words else 0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    trio = min(seconds(sys.executable, "-c", "import trio") for _ in range(2))
    wrong = ("-m", "redstreamd", "serve", "--set", "limits.max_waits=many")
    # Once is enough, if it is as fast.
    with measured:
        assert any(seconds(sys.executable, *wrong) < 1.5 * trio for _ in range(2))


def test_a_module_that_cannot_be_imported_ends_the_daemon_with_a_record(place: Path) -> None:
    done = serve(place, "fail")
    assert done.returncode == 70
    assert (
        "CRITICAL cannot load the daemon: ModuleNotFoundError: No module named 'mcp.server.runner'; "
        "the installation is incomplete or was changed, install it again" in done.stderr
    )
    assert "Traceback" in done.stderr
    assert not (place / "redstreamd" / "mcp.sock").exists()


def test_a_signal_during_the_imports_stops_the_daemon_before_it_serves(place: Path) -> None:
    done = serve(place, "stop")
    assert (done.returncode, done.stdout, done.stderr) == (os.EX_OK, "", "")
    assert not (place / "redstreamd" / "mcp.sock").exists()
    assert ["import", "False", "redstreamd.daemon.parts"] in noted(place)
    assert "mcp" not in names(noted(place))


@contextlib.contextmanager
def held(place: Path, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon that stops in the middle of importing the SDK, until `go`."""
    with (place / "log").open("ab") as log:
        process = subprocess.Popen(
            [*watched(place, "hold"), command],
            env=clean_environment(place, REDIS_URL=f"unix://{place}/none"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def go(place: Path) -> None:
    (place / "imports.go").touch()


def connected(place: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    path = str(place / "redstreamd" / "mcp.sock")
    wait_until(lambda: not connection.connect_ex(path))
    return connection


CALL = request(1, "stream_list", {})


def line(request_id: int | None, method: str, params: dict[str, Any]) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(message if request_id is None else {**message, "id": request_id}).encode() + b"\n"


def test_what_is_plain_is_served_while_the_sdk_is_imported_and_as_the_sdk_does(place: Path) -> None:
    """Calls, handshakes of each revision, and discoveries, of one daemon."""
    with held(place, "serve") as daemon, contextlib.ExitStack() as clients:
        first = clients.enter_context(connected(place))
        first.sendall(json.dumps(HELLO).encode() + b"\n")
        wait_until(lambda: ["import", "False", "mcp.server.runner"] in noted(place))
        other = clients.enter_context(connected(place))
        other.sendall(CALL)
        answer = json.loads(other.makefile("rb").readline())
        # There is no Redis; who says so is the tool.
        assert answer["result"]["structuredContent"]["code"] == "CONNECTION_ERROR"
        finish_handshakes = handshakes(place, clients)
        finish_discovery = discovery(place, clients)
        assert not {"mcp.shared.jsonrpc_dispatcher", "redstreamd.prompts.catalog"} & names(noted(place))
        assert "listens on" not in (place / "log").read_text()
        go(place)
        assert json.loads(first.makefile("rb").readline())["id"] == "hello"
        finish_handshakes()
        finish_discovery()
        wait_until(lambda: "listens on" in (place / "log").read_text())
        daemon.terminate()
        assert daemon.wait(60) == 0


def handshakes(place: Path, clients: contextlib.ExitStack) -> Callable[[], None]:
    """Do what is answered before the SDK is there, and return what compares it with what the SDK does."""
    versions = (*REVISIONS, "1999-01-01")
    hellos = [line(0, "initialize", {**HELLO["params"], "protocolVersion": version}) for version in versions]
    answers = []
    for hello in hellos:
        one = clients.enter_context(connected(place))
        lines = one.makefile("rb")
        one.sendall(hello)
        early = json.loads(lines.readline())
        assert early["result"]["protocolVersion"]
        # The request waits for the SDK, and holds up neither what comes after it nor its cancellation.
        one.sendall(line(None, "notifications/initialized", {}) + line(1, "tools/list", {}))
        one.sendall(line(2, "prompts/list", {}) + line(None, "notifications/cancelled", {"requestId": 2}))
        one.sendall(line(3, "tools/call", {"name": "stream_list", "arguments": {}}))
        assert json.loads(lines.readline())["id"] == 3
        answers.append((hello, early, one, lines))

    def finish() -> None:
        for hello, early, one, lines in answers:
            listing = json.loads(lines.readline())
            assert (listing["id"], len(listing["result"]["tools"]) > 5) == (1, True)
            one.sendall(line(4, "ping", {}))
            assert json.loads(lines.readline()) == {"jsonrpc": "2.0", "id": 4, "result": {}}
            with connected(place) as other:
                other.sendall(hello)
                assert json.loads(other.makefile("rb").readline()) == early

    return finish


def discovery(place: Path, clients: contextlib.ExitStack) -> Callable[[], None]:
    """The same of `server/discover`."""
    discover = line(0, "server/discover", {"_meta": META})
    one = clients.enter_context(connected(place))
    lines = one.makefile("rb")
    one.sendall(discover)
    early = json.loads(lines.readline())
    assert early["result"]["supportedVersions"] == ["2026-07-28"]
    # The requests wait for the SDK, and hold up neither what comes after them nor a cancellation.
    one.sendall(line(1, "tools/list", {"_meta": META}) + line(2, "prompts/list", {"_meta": META}))
    one.sendall(line(3, "server/discover", {"_meta": META, "x": 1}))
    one.sendall(line(None, "notifications/cancelled", {"requestId": 2}))
    one.sendall(line(4, "tools/call", {"name": "stream_list", "arguments": {}, "_meta": META}))
    assert json.loads(lines.readline())["id"] == 4

    def finish() -> None:
        later = {answer["id"]: answer for answer in (json.loads(lines.readline()) for _ in range(2))}
        assert later.keys() == {1, 3}
        assert len(later[1]["result"]["tools"]) > 5
        one.sendall(line(5, "initialize", HELLO["params"]))
        assert json.loads(lines.readline())["error"]["code"] == -32022
        with connected(place) as other:
            other.sendall(discover)
            assert json.loads(other.makefile("rb").readline()) == early

    return finish


def test_plain_calls_on_standard_input_are_served_while_the_sdk_is_imported(place: Path) -> None:
    with held(place, "stdio") as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(CALL + json.dumps({**json.loads(CALL), "id": 2, "method": "tools/list"}).encode())
        daemon.stdin.flush()
        assert json.loads(daemon.stdout.readline())["result"]["isError"]
        go(place)
        daemon.stdin.close()
        assert json.loads(daemon.stdout.readline())["result"]["tools"]
        assert daemon.wait(60) == 0


def test_a_stop_while_the_sdk_is_imported_answers_those_who_wait(place: Path) -> None:
    with held(place, "serve") as daemon, connected(place) as one:
        one.sendall(json.dumps(HELLO).encode() + b"\n")
        wait_until(lambda: ["import", "False", "mcp.server.runner"] in noted(place))
        daemon.terminate()
        wait_until(lambda: "stopping" in (place / "log").read_text())
        go(place)
        lines = one.makefile("rb")
        assert json.loads(lines.readline())["result"]["protocolVersion"] == "2025-11-25"
        assert lines.readline() == b""
        assert daemon.wait(60) == 0
    assert "listens on" not in (place / "log").read_text()


@pytest.mark.parametrize("address", ["tcp:256.0.0.1:1", "unix:/proc/none.sock"])
def test_an_address_that_cannot_be_listened_on_is_told_before_the_imports(place: Path, address: str) -> None:
    done = serve(place, "watch", "--listen", address)
    assert done.returncode in {os.EX_TEMPFAIL, os.EX_CONFIG}
    assert "mcp" not in names(noted(place))
