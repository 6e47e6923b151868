"""How much of the program one call passes, from its bytes in to its bytes out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import redstreamd
from tests.support.mcp_client import EraName
from tests.support.one_call import Passed, modules_of, one_call
from tests.support.servers import Server

#: The most that plain calls of stream_add may pass: each of many, all of those, and a lone one.
#: To read a call means to read the first. All of them together are read, have a turn, are sent and are told.
#: A busy machine may have the turn asked about once more, and so on: the last two have room for that.
MOST_OF_EACH: Final = (18, 10)
MOST_OF_ALL: Final = (28, 16)
MOST_OF_ONE: Final = (44, 24)


def _is_within(passed: Passed) -> bool:
    return all(
        len(functions) <= most and len(modules_of(functions)) <= most_modules
        for functions, (most, most_modules) in (
            (passed.of_each, MOST_OF_EACH),
            (passed.of_all, MOST_OF_ALL),
            (passed.functions, MOST_OF_ONE),
        )
    )


@pytest.fixture(params=["handshake", "modern"])
def passed(request: pytest.FixtureRequest, redis: Server) -> Passed:
    era: EraName = request.param
    # On a busy machine a turn may be over in between, and what that asks for is passed, too.
    for _ in range(4):
        found = one_call(redis, era, "stream_add", {"stream": "orders:new:stream", "entries": [{"n": 1}]})
        if _is_within(found):
            break
    return found


def test_a_plain_call_passes_few_modules_and_functions(passed: Passed) -> None:
    """Print them with: python -m pytest -s tests/daemon/test_one_call.py."""
    print(passed)
    assert passed.package == Path(redstreamd.__file__).parent
    # Its bytes come in and go out, and its command goes to Redis: nothing of that is left out.
    for functions in (passed.functions, passed.of_each):
        packages = {module.split(".")[1] for module in modules_of(functions)}
        assert {"mcpio", "mcp_server", "redisio", "streams", "tools"} <= packages
    assert _is_within(passed), passed
