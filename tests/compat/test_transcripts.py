"""A client that relies on what an earlier release answered finds it: the same conversation, in both eras.

What is compared, and what may change, is said in `tests.compat.transcripts`. Where a change is meant, run
``python -m tests.compat.record`` and look at what the transcripts' difference says to clients.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

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
