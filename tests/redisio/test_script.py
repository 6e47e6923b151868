from __future__ import annotations

from redstreamd.redisio.script import Script
from tests.support.servers import Server


def test_a_script_knows_the_digest_the_server_gives_it(server: Server) -> None:
    script = Script("return 'größe'")
    assert server.command("SCRIPT", "LOAD", script.source).decode() == script.sha
