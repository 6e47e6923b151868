"""A client that relies on what an earlier release answered finds it: the same conversation, in both eras.

What is compared, and what may change, is said in `tests.compat.transcripts`. Where a change is meant, run
``python -m tests.compat.record`` and look at what the transcripts' difference says to clients.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import trio

from redstreamd.tools.catalog import REGISTRY
from tests.compat import transcripts
from tests.compat.record import ERAS, served
from tests.compat.transcripts import replayed
from tests.support.daemon import Daemon
from tests.support.mcp_client import EraName
from tests.support.servers import Server


@pytest.fixture(scope="module")
def daemon(redis_server: Server) -> Iterator[Daemon]:
    """The daemon that is spoken to."""
    with served(redis_server) as running:
        yield running


@pytest.mark.parametrize("era", ERAS)
def test_a_conversation_goes_as_it_went_with_an_earlier_release(
    redis_server: Server, daemon: Daemon, era: EraName
) -> None:
    redis_server.flush()
    found = trio.run(replayed, daemon.path, transcripts.read(era))
    if found:
        pytest.fail("The daemon answers otherwise than before:\n\n" + "\n".join(found), pytrace=False)


@pytest.mark.parametrize("era", ERAS)
def test_every_tool_is_called_in_the_conversation(era: EraName) -> None:
    requests = [
        json.loads(line) for step in transcripts.read(era) for line in step.sent if line[:8] == '{"jsonrp'
    ]
    called = {request["params"]["name"] for request in requests if request["method"] == "tools/call"}
    assert {tool.name for tool in REGISTRY} <= called
