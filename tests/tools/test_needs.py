"""What a tool says that it needs is what it touches: held against the commands that Redis gets.

Redis itself tells the commands, those of scripts included (MONITOR), and which of their arguments are keys
(COMMAND GETKEYS). A companion key belongs to its stream.
"""

from __future__ import annotations

import ast
import random
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

from redstreamd.errors import BusError
from redstreamd.policy import Need, Permission, Policy, Principal
from redstreamd.streams.bus import Bus
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import NO_NEEDS, Profile, Registry, Tool
from redstreamd.tools.schema import arguments_schema
from redstreamd.tools.toolbox import Toolbox, toolbox_over
from tests.support.buses import ON_REDIS
from tests.support.calls import ME, no_progress
from tests.support.servers import Server
from tests.tools.test_annotations import CASES, World, made

PROFILES = [Profile.OPERATOR, Profile.RED_STREAM]
#: Generated calls of each tool, besides those of the table.
GENERATED = 12
_ARGUMENT = re.compile(r'"(?:[^"\\]|\\.)*"')
#: Values of generated arguments, by name; others follow from the schema.
VALUES: dict[str, list[Any]] = {
    "stream": ["s", "log", "asked", "absent", "a:b:c"],
    "streams": [["s"], ["log", "absent"], ["asked", "s"]],
    "reply_to": ["answers", "log", "a:b:answers"],
    "group": ["g", "late", "absent"],
    "consumer": ["me", "them"],
    "to_consumer": ["me", "other"],
    "entries": [[{"n": 1}], [{"n": 1}, {"m": "x"}]],
    "entry": [{"q": 1}],
    "message": [{"q": 1}],
    "reply": [{"a": 1}],
    "filter": [{"n": 1}],
    "idempotency_key": ["k"],
    "correlation_id": ["c"],
    "timeout_seconds": [0],
    "start": ["0", "1-1"],
    "end": ["9999999999999-0"],
    "cursor": ["0-0"],
    "min_id": ["1-1"],
    "pattern": ["*", "s*"],
    "max_age_seconds": [1],
    "lease_seconds": [60],
}


@contextmanager
def monitoring(server: Server) -> Iterator[list[list[bytes]]]:
    """Yield a list that has the commands of the block when the block has ended."""
    commands: list[list[bytes]] = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(server.path)
        connection.sendall(b"MONITOR\r\n")
        with connection.makefile("rb") as lines:
            assert lines.readline() == b"+OK\r\n"
            yield commands
            server.command("ECHO", "the block has ended")
            while True:
                command = [
                    ast.literal_eval(f"b{part}") for part in _ARGUMENT.findall(lines.readline().decode())
                ]
                if command == [b"ECHO", b"the block has ended"]:
                    return
                commands.append(command)


@attrs.frozen
class Touched:
    """A command touched a key.

    Attributes:
        command: Its name.
        key: The key.
        writes: Whether it is a command that writes.
    """

    command: str
    key: str
    writes: bool

    def is_needed(self, need: Need) -> bool:
        """Whether a need covers this."""
        belongs = self.key == need.stream or self.key.startswith(f"{need.stream}:rs:")
        return belongs and (not self.writes or need.permission is not Permission.READ)


def touched(server: Server, commands: list[list[bytes]]) -> list[Touched]:
    """Return which keys the commands touched, as the server tells it."""
    # GETKEYS takes no command without arguments, which has no keys.
    commands = [command for command in commands if len(command) > 1]
    if not commands:
        return []
    keys = server.commands(*[("COMMAND", "GETKEYS", *command) for command in commands])
    kinds = server.commands(*[("COMMAND", "INFO", command[0]) for command in commands])
    found = []
    for command, named, ((_, _, flags, *_),) in zip(commands, keys, kinds, strict=True):
        if isinstance(named, Exception):
            assert "no key" in str(named), (command, named)
            continue
        name = command[0].decode()
        found += [Touched(name, key.decode(), b"write" in flags) for key in named]
    return found


def generated(tool: Tool[Any], world: World) -> Iterator[dict[str, Any]]:
    """Iterate over calls with any combination of the tool's arguments."""
    chance = random.Random(tool.name)
    schema = arguments_schema(tool.arguments)
    for _ in range(GENERATED):
        yield {
            name: value_for(name, member, world, chance)
            for name, member in schema["properties"].items()
            # Without a timeout, a call would wait.
            if name in {*schema.get("required", ()), "timeout_seconds"} or chance.random() < 0.4
        }


def value_for(name: str, schema: dict[str, Any], world: World, chance: random.Random) -> Any:
    if name == "lease":
        return chance.choice([world.lease, world.lone, world.request])
    if name == "entry_ids":
        return chance.sample([*world.ids, world.letter, world.waiting], 2)
    if name in VALUES:
        return chance.choice(VALUES[name])
    if "enum" in schema:
        return chance.choice(schema["enum"])
    return chance.choice(
        {"boolean": [True, False], "integer": [1, 2, 50], "number": [0, 1], "string": ["x"]}[schema["type"]]
    )


def is_listing(tool: Tool[Any], arguments: dict[str, Any]) -> bool:
    """Return whether a call names no stream: then it finds them, and asks what it may tell of each."""
    return tool.needs is NO_NEEDS or (tool.name == "quarantine_release" and "stream" not in arguments)


@attrs.define
class Caller:
    """Calls tools, and finds out what they did not declare.

    Attributes:
        asked: What the last call asked for while it ran.
        ran: Calls that were not refused before they ran.
        touching: Calls that touched a key.
    """

    toolbox: Toolbox[Bus]
    server: Server
    asked: list[Need]
    ran: int = 0
    touching: int = 0

    async def undeclared(self, tool: Tool[Any], arguments: dict[str, Any]) -> list[Touched]:
        """Call a tool and return what it touched without a need for it."""
        try:
            needs = self.toolbox.begin(tool, arguments, ME).needs
        except BusError:
            return []
        self.asked.clear()
        with monitoring(self.server) as commands:
            await self.toolbox.call(tool, arguments, ME, no_progress)
        found = touched(self.server, commands)
        self.ran += 1
        self.touching += bool(found)
        return [one for one in found if not any(map(one.is_needed, [*needs, *self.asked]))]


def caller(bus: Bus, server: Server, registry: Registry = REGISTRY) -> Caller:
    asked: list[Need] = []

    class Asked(Policy):
        def authorise(self, principal: Principal, stream: str, permission: Permission) -> None:
            asked.append(Need(stream, permission))

    return Caller(toolbox_over(bus, registry, PROFILES, policy=Asked()), server, asked)


@pytest.mark.parametrize("tool", REGISTRY, ids=[tool.name for tool in REGISTRY])
@pytest.mark.limit(60)
@ON_REDIS
async def test_a_tool_touches_no_key_that_its_needs_do_not_name(
    tool: Tool[Any], bus: Bus, server: Server
) -> None:
    calls = caller(bus, server)
    for case in CASES[tool.name]:
        world = await made(bus, server)
        if case.before is not None:
            case.before(server)
        arguments = case.arguments(world)
        found = await calls.undeclared(tool, arguments)
        if is_listing(tool, arguments):
            # A listing reads what it lists.
            found = [one for one in found if one.writes]
        assert not found, arguments
    world = await made(bus, server)
    for arguments in generated(tool, world):
        found = await calls.undeclared(tool, arguments)
        assert is_listing(tool, arguments) or not found, arguments
    assert calls.ran > len(CASES[tool.name])
    assert calls.touching or tool.name == "list_streams"


@pytest.mark.parametrize(
    "tool",
    [each for each in REGISTRY if each.needs is not NO_NEEDS],
    ids=[each.name for each in REGISTRY if each.needs is not NO_NEEDS],
)
@ON_REDIS
async def test_a_tool_that_names_too_little_is_found_out(tool: Tool[Any], bus: Bus, server: Server) -> None:
    def nothing(_: object, __: object) -> tuple[Need, ...]:
        return ()

    def reading(arguments: Any, lease: Any) -> list[Need]:
        return [Need(need.stream, Permission.READ) for need in tool.needs(arguments, lease)]

    for mutated in (nothing, reading):
        changed = attrs.evolve(tool, needs=mutated)
        calls = caller(bus, server, Registry([changed]))
        found: list[Touched] = []
        for case in CASES[tool.name]:
            found += await calls.undeclared(changed, case.arguments(await made(bus, server)))
        assert found or (mutated is reading and tool.permission is Permission.READ)
