"""The domain's scripts: their operands and replies have names, and their lines are those of the files."""

from __future__ import annotations

from pathlib import Path

import pytest

import redstreamd.streams
from redstreamd.streams.bus import Bus
from redstreamd.streams.scripts import load
from tests.support.buses import ON_REDIS

FILES = sorted((Path(redstreamd.streams.__file__).parent / "lua").glob("*.lua"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_declaration_becomes_code_in_its_own_line(file: Path) -> None:
    text, source = file.read_text("utf-8").split("\n"), load(file.stem).source.split("\n")
    assert len(source) == len(text)
    changed = [line for line, code in zip(text, source, strict=True) if line != code]
    assert all(line.startswith(("-- KEYS ", "-- ARGV ", "-- REPLY ")) for line in changed)


def test_operands_are_put_in_order_and_keys_of_a_group_follow_from_its_name() -> None:
    keys, args = load("clock", "destroy_group").operands(
        {"stream": "s", "group": "g", "delete_dead_letters": True}
        | dict.fromkeys(("clock_name", "clock_expected", "clock_least", "clock_most"))
    )
    kinds = ("due", "tries", "dead", "group")
    assert keys == ["s", *(f"s:rs:{kind}:g:{{s}}" for kind in kinds)]
    assert args == ["", "", "", "", "g", 1]


def test_a_call_that_takes_operands_in_its_own_order_is_that_of_their_names() -> None:
    script = load("server_time", "due_members", "delivery_names", "finish")
    given = {"group": "g", "stream": "s", "leases": [5, 2, "1-0", 1, "2-0", 3], "consumer": "c"}
    call = script.bound("group", "stream", "*leases", "consumer")(*given.values())
    assert call == script.call(given)
    assert call.args == ["g", "c", 5, 2, "1-0", 1, "2-0", 3]
    for names in (("group", "stream"), ("group", "stream", "*leases", "consumer", "other")):
        with pytest.raises(TypeError, match=r"consumer|other"):
            script.bound(*names)


@pytest.mark.parametrize("given", [{"stream": "s"}, {"stream": "s", "group": "g", "delete": False}])
@ON_REDIS
async def test_an_operand_that_is_missing_or_unknown_is_an_error(bus: Bus, given: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="delete_dead_letters"):
        await load("destroy_group").run(bus.redis, retry_safe=True, **given)
