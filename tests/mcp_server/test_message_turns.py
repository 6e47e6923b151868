"""No message holds up the others for long: what is costly is refused before that, or done in steps."""

from __future__ import annotations

import json

import pytest

from redstreamd.mcpio.limits import Limits
from redstreamd.streams.bus import Bus
from tests.support.buses import ON_REDIS
from tests.support.longest_step import longest_step, unit_seconds
from tests.support.measured import measured
from tests.support.two_ways import running_way, surface_over

MIB = 1 << 20
_MOST = Limits().max_values


def _add(entries: str) -> bytes:
    return (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"stream_add","arguments":'
        '{"stream":"a:b:c","entries":' + entries + "}}}"
    ).encode()


def _array(unit: str, cost: int, beyond: bool) -> bytes:
    """Return a call with an array of so many equal values that they are within the limit, or beyond it."""
    count = (_MOST - 60) // cost
    return _add('[{"x":[' + ",".join([unit] * (2 * count if beyond else count)) + "]}]")


#: A value and what it counts, with its comma.
_UNITS = {
    "numbers": ("1", 1),
    "long numbers": ("1.2345678901234567", 1),
    "texts": ('"ab"', 1),
    "texts that are not ASCII": ('"äö"', 1),
    "empty arrays": ("[]", 4),
    "empty objects": ("{}", 4),
    "objects": ('{"a":1}', 7),
    "nested objects": ('{"a":{"b":{"c":1}}}', 19),
    "deep arrays": ("[" * 90 + "]" * 90, 271),
    "escaped texts": ('"' + "\\n" * 16 + '"', 2),
    "escapes that only the kernel takes": ('"\\u00e4"', 2),
}

_TEXTS = {
    "ASCII": "a" * (4 * MIB - 1_000),
    "lines": ("a" * 58 + "\\n") * (4 * MIB // 60 - 20),
    "brackets and commas": "[{,:" * (MIB - 300),
    "two bytes": "ä" * (2 * MIB - 500),
    "three bytes": "漢" * (4 * MIB // 3 - 400),
    "four bytes": "😀" * (MIB - 300),
}


@ON_REDIS
@pytest.mark.parametrize("beyond", [False, True], ids=["within", "beyond"])
@pytest.mark.parametrize("kind", _UNITS)
async def test_no_kind_of_value_makes_a_message_that_holds_up_the_others(
    bus: Bus, kind: str, beyond: bool
) -> None:
    line = _array(*_UNITS[kind], beyond)
    async with running_way(surface_over(bus), direct=True, revision="2025-06-18") as way:
        # The first call compiles what is compiled once.
        await way.talk(_add('[{"x":[1]}]'))
        # About 5 units of 1 ms each, in the SDK's kernel 12; 100,000 objects took 160 to decode alone.
        most = (30 if "kernel" in kind else 15) * unit_seconds()
        with longest_step(but=("test_no_kind",)) as step:
            answers = await way.talk(line)
    answer = json.loads(answers[0])
    if beyond:
        assert "limits.max_message_values" in answer["error"]["message"]
    else:
        assert not answer["result"]["isError"]
    with measured:
        assert step.seconds < most


@ON_REDIS
@pytest.mark.parametrize("kind", _TEXTS)
async def test_an_entry_of_several_mib_in_one_text_is_added_in_short_steps(bus: Bus, kind: str) -> None:
    async with running_way(surface_over(bus), direct=True, revision="2025-06-18") as way:
        await way.talk(_add('[{"x":[1]}]'))
        # In one step, and with each character of what is not ASCII looked at one by one, 400 units.
        most = 120 * unit_seconds()
        with longest_step(but=("test_an_entry",)) as step:
            answers = await way.talk(_add('[{"x":"' + _TEXTS[kind] + '"}]'))
    assert not json.loads(answers[0])["result"]["isError"]
    with measured:
        assert step.seconds < most
