"""How much of the program one call passes, from its bytes in to its bytes out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

import redstreamd
from tests.support.mcp_client import EraName
from tests.support.one_call import Passed, one_call
from tests.support.servers import Server

#: The most that a plain call of stream_add may pass, from when its connection is readable: its reading takes
#: three modules and seven functions. To read a call means to read these. Four of the modules report its end:
#: what it removed, those that are told together, the counts of calls and of round trips.
MOST_MODULES: Final = 28
MOST_FUNCTIONS: Final = 43


@pytest.fixture(params=["handshake", "modern"])
def passed(request: pytest.FixtureRequest, redis: Server) -> Passed:
    era: EraName = request.param
    return one_call(redis, era, "stream_add", {"stream": "orders:new:stream", "entries": [{"n": 1}]})


def test_a_plain_call_passes_few_modules_and_functions(passed: Passed) -> None:
    """Print them with: python -m pytest -s tests/daemon/test_one_call.py."""
    print(passed)
    assert passed.package == Path(redstreamd.__file__).parent
    # Its bytes come in and go out, and its command goes to Redis: nothing of that is left out.
    packages = {module.split(".")[1] for module in passed.modules}
    assert {"mcpio", "redisio", "streams", "tools"} <= packages
    assert len(passed.modules) <= MOST_MODULES
    assert len(passed.functions) <= MOST_FUNCTIONS
