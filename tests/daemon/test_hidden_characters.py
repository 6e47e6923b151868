"""Hostile names and values in all that the daemon shows: texts hide nothing, and values are exact."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from redstreamd.presentation.uris import group_uri, stream_uri
from redstreamd.streams.names import Kind, companion_key
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.schema import arguments_schema
from redstreamd.visible_text import visible
from tests.support import preloaded
from tests.support.daemon import PROGRAM, Daemon, clean_environment, home, running_daemon
from tests.support.mcp_client import EraName, RawClient, raw_client
from tests.support.servers import Server

#: What reads like an instruction where it appears.
MARK: Final = "OBEYME"
HIDDEN: Final = "\u202e\u2066\u200b\ufeff\u2028\U000e0041\ufe05"
STREAM: Final = f"agents:{MARK}{HIDDEN}:stream"
ABSENT: Final = f"agents:{MARK}{HIDDEN}:strean"
NO_STREAM: Final = f"agents:{MARK}{HIDDEN}:key"
GROUP: Final = f"{MARK}{HIDDEN}group"
CONSUMER: Final = f"{MARK}{HIDDEN}consumer"
OTHER_GROUP: Final = f"{GROUP}x"
VALUE: Final = f"{MARK}{HIDDEN}\x1b[2J\x9b\x7f\n<0>value"
FIELD: Final = f"{MARK}{HIDDEN}\x7ffield"
ENTRY: Final = {FIELD: VALUE, "nested": {VALUE: [VALUE]}}
#: What structured content may hold as it was written.
EXACT: Final = {STREAM, ABSENT, NO_STREAM, GROUP, OTHER_GROUP, CONSUMER, VALUE, FIELD}

#: Values of the arguments that have no default, and of others that matter; several: each is tried.
ARGUMENTS: Final[dict[str, list[Any]]] = {
    "stream": [STREAM, ABSENT, NO_STREAM, VALUE],
    "streams": [[STREAM], [ABSENT], [NO_STREAM], [VALUE]],
    "group": [GROUP, OTHER_GROUP],
    "consumer": [CONSUMER],
    "entries": [[ENTRY]],
    "entry": [ENTRY],
    "message": [ENTRY],
    "lease": [VALUE],
    "entry_ids": [None, ["1-1"]],
    "timeout_seconds": [0],
    "filter": [{FIELD: VALUE}],
    "reason": [VALUE],
    "correlation_id": [GROUP],
    "cursor": [None, VALUE],
    "start": [None, VALUE],
}


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield calls of every tool: with the first values, then with each other value of each argument."""
    for tool in REGISTRY:
        names = [each.name for each in tool.arguments.__attrs_attrs__]
        values = {name: ARGUMENTS[name] for name in names if name in ARGUMENTS}
        if "action" in names:
            # Each that there is, and one that there is not.
            values["action"] = [*arguments_schema(tool.arguments)["properties"]["action"]["enum"], VALUE]
        plain = {name: given[0] for name, given in values.items() if given[0] is not None}
        yield tool.name, plain
        for name, given in values.items():
            for value in given[1:]:
                # Other tools might create it.
                if tool.hints.read_only.value or value not in (ABSENT, [ABSENT]):
                    yield tool.name, {**plain, name: value}
        yield tool.name, {**plain, VALUE: VALUE}
        yield tool.name, {}


def requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield requests other than calls of tools, right and wrong ones."""
    for stream in (STREAM, ABSENT, NO_STREAM, VALUE):
        yield "resources/read", {"uri": stream_uri(stream)}
        yield "resources/read", {"uri": group_uri(stream, GROUP)}
        yield "resources/read", {"uri": f"{stream_uri(stream)}/entries/1-1"}
        yield "resources/read", {"uri": f"{stream_uri(stream)}/entries/1-1/fields/nested"}
        for prompt in ("diagnose-stream", "diagnose-group", "drain-a-queue"):
            arguments = {"stream": stream, "group": GROUP, "consumer": CONSUMER}
            keep = {"diagnose-stream": 1, "diagnose-group": 2}.get(prompt, 3)
            yield "prompts/get", {"name": prompt, "arguments": dict(list(arguments.items())[:keep])}
    yield "resources/read", {"uri": "redstream://streams"}
    yield "resources/read", {"uri": "redstream://health"}
    yield "resources/read", {"uri": f"redstream://{VALUE}"}
    yield "prompts/get", {"name": "design-stream", "arguments": {"purpose": VALUE}}
    yield "prompts/get", {"name": "design-stream", "arguments": {VALUE: VALUE}}
    yield "prompts/get", {"name": VALUE}
    yield "tools/call", {"name": VALUE, "arguments": {}}
    yield (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": VALUE}, "argument": {"name": "x", "value": ""}},
    )
    yield f"no/{VALUE}", {}
    yield "resources/list", {}
    yield "resources/list", {"cursor": VALUE}


def texts(message: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a message with its place."""
    if isinstance(message, dict):
        for name, member in message.items():
            yield f"{path} name", name
            yield from texts(member, f"{path}.{name}")
    elif isinstance(message, list):
        for member in message:
            yield from texts(member, path)
    elif isinstance(message, str):
        yield path, message


def check(message: dict[str, Any]) -> None:
    """Check what a message shows."""
    for place, shown in texts(message):
        # Our own instructions have lines.
        text = shown.replace("\n", "") if place.endswith(".messages.content.text") else shown
        # The request's own, repeated to whoever made it.
        if text != visible(text) and not place.endswith((".data.uri", ".contents.uri", ".data.method")):
            assert ".structuredContent" in place, (place, text)
            # The name of a reply stream begins with that of the stream.
            assert text in EXACT or text.partition(":rs:reply:")[0] in EXACT, (place, text)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with home() as directory:
        yield directory


@pytest.fixture(scope="module")
def statuses(place: Path) -> Iterator[socket.socket]:
    """What the service manager is told."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(place / "notify"))
        manager.setblocking(False)
        yield manager


@pytest.fixture(scope="module")
def daemon(redis_server: Server, place: Path, statuses: socket.socket) -> Iterator[Daemon]:
    redis_server.flush()
    redis_server.command("SET", NO_STREAM.encode(), "1")
    redis_server.command(
        "XADD",
        STREAM.encode(),
        "1-1",
        "f",
        VALUE.encode(),
        FIELD.encode(),
        "\ud800\x00".encode("utf-8", "surrogatepass"),
    )
    waiting = companion_key(STREAM, Kind.QUARANTINE).encode()
    redis_server.command(
        *(
            "XADD",
            waiting,
            "1-1",
            "_rs.quarantine",
            STREAM.encode(),
            FIELD.encode(),
            VALUE.encode(),
            "_rs.v",
            "1",
        )
    )
    redis_server.command("XGROUP", "CREATE", STREAM.encode(), GROUP.encode(), "0")
    redis_server.command(
        "XREADGROUP", "GROUP", GROUP.encode(), CONSUMER.encode(), "STREAMS", STREAM.encode(), ">"
    )
    options = ("--set", "daemon.log_level=debug", "--set", "tools.profile=operator,red-stream")
    with running_daemon(
        redis_server, *options, directory=place, NOTIFY_SOCKET=str(place / "notify")
    ) as running:
        yield running


async def hostile_client(client: RawClient) -> None:
    """Introduce a client by a name that reads like an instruction."""
    if client.era == "handshake":
        about = {"name": VALUE, "version": VALUE, "title": VALUE}
        await client.call(
            "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": about}
        )
        await client.notify("notifications/initialized")


@pytest.mark.parametrize("era", ["handshake", "modern"])
@pytest.mark.limit(120)
async def test_no_text_hides_anything_and_values_are_as_they_were_written(
    daemon: Daemon, era: EraName
) -> None:
    exact = 0
    async with raw_client(daemon.path, era=era) as client:
        await hostile_client(client)
        for tool, arguments in calls():
            answer = await client.call_tool(tool, arguments)
            check(answer)
            result = answer["result"]
            (block,) = result["content"]
            if not result.get("isError") and "structuredContent" in result:
                # The text is JSON of the same value.
                assert json.loads(block["text"]) == result["structuredContent"]
                exact += VALUE in [text for _, text in texts(result)]
        for method, params in requests():
            answer = await client.call(method, params)
            check(answer)
            for content in answer.get("result", {}).get("contents", []):
                if content.get("mimeType") == "application/json":
                    json.loads(content["text"])
        value = await client.call("resources/read", {"uri": f"{stream_uri(STREAM)}/entries/1-1/fields/f"})
        # The one text that is the value itself.
        assert value["result"]["contents"][0]["text"] == VALUE
    assert exact >= 3


@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_descriptions_hold_nothing_of_others(daemon: Daemon, era: EraName) -> None:
    async with raw_client(daemon.path, era=era) as client:
        await hostile_client(client)
        for method in ("tools/list", "prompts/list", "resources/templates/list"):
            assert MARK not in json.dumps(await client.call(method))
        listed = (await client.call("resources/list"))["result"]["resources"]
        assert all(MARK not in json.dumps(each.get("description", "")) for each in listed)
        assert (stream_uri(STREAM), visible(STREAM)) in {(each["uri"], each["name"]) for each in listed}
        shown = await client.call(
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "diagnose-stream"},
                "argument": {"name": "stream", "value": "agents"},
            },
        )
        # A completion is a value: what is chosen is sent back.
        assert STREAM in shown["result"]["completion"]["values"]


def test_the_command_line_the_log_and_the_status_line_hide_nothing(
    daemon: Daemon, redis_server: Server, statuses: socket.socket, place: Path
) -> None:
    environment = clean_environment(place, REDIS_URL=f"unix://{redis_server.path}")
    socket_option = ("--socket", daemon.path)
    commands = [
        ("call", *socket_option, "stream_read", json.dumps({"stream": STREAM})),
        ("call", *socket_option, "stream_read", json.dumps({"stream": ABSENT})),
        ("call", *socket_option, VALUE, "{}"),
        ("call", *socket_option, "stream_list"),
        ("status", *socket_option),
        ("status", *socket_option, "--json"),
        ("doctor", "--no-service"),
        ("check-config", "--set", f"redis.username={GROUP}"),
        ("check-config", "--set", f"{VALUE}=1"),
        ("check-config", "--config", f"/{VALUE}"),
        ("call", *socket_option, f"--{VALUE}"),
        (VALUE,),
    ]
    marked = 0
    started = [
        preloaded.start([PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for words in commands
    ]
    for words, process in zip(commands, started, strict=True):
        for output in process.communicate(timeout=60):
            lines = output.decode().split("\n")
            assert lines == [visible(line) for line in lines], words
            marked += any(MARK in line for line in lines)
    # Otherwise nothing would be shown by this.
    assert marked > 6
    assert daemon.log.split("\n") == [visible(line) for line in daemon.log.split("\n")]
    told = []
    while True:
        try:
            told.append(statuses.recv(1 << 16))
        except BlockingIOError:
            break
    assert any(b"STATUS=" in each for each in told)
    assert all(MARK.encode() not in each for each in told)
