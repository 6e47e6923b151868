"""No answer names a stream that the daemon's user of Redis may not access; the caller may ask for none."""

from __future__ import annotations

import json
from typing import Any

from tests.support.daemon import running_daemon
from tests.support.mcp_client import raw_client
from tests.support.servers import Server

OPEN = ("open:orders", "open:orderz")
#: One is the nearest to a name that is asked for, and one the first of all.
SECRET = ("opan:orders", "a:secret", "open.secret")

STREAM = {"type": "ref/resource", "uri": "redstream://streams/{stream}"}


def completing(prefix: str) -> tuple[str, dict[str, Any]]:
    return "completion/complete", {"ref": STREAM, "argument": {"name": "stream", "value": prefix}}


def tool(name: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return "tools/call", {"name": name, "arguments": arguments}


ANSWERS = {
    "all tools that list": (tool("stream_list"), True),
    "the original tool": (tool("list_streams"), True),
    "an error with the nearest names": (tool("stream_read", stream="open:orderx"), True),
    "resources": (("resources/list", {}), True),
    "the resource of streams": (("resources/read", {"uri": "redstream://streams"}), True),
    "completions": (completing(""), True),
    "completions of a beginning": (completing("op"), True),
    "completions of what is secret": (completing("a:s"), False),
}


async def test_no_answer_names_a_stream_that_may_not_be_accessed(redis: Server) -> None:
    for stream in (*OPEN, *SECRET):
        redis.command("XADD", stream, "*", "f", "v")
    redis.command("ACL", "SETUSER", "fenced", "reset", "on", ">pw", "~open:*", "+@all")
    try:
        with running_daemon(
            redis, "--set", "tools.profile=worker,red-stream", REDIS_URL=f"unix://fenced:pw@{redis.path}"
        ) as daemon:
            async with raw_client(daemon.path, era="modern") as client:
                for label, ((method, params), names_open) in ANSWERS.items():
                    answer = await client.call(method, params)
                    text = json.dumps(answer)
                    assert [name for name in SECRET if name in text] == [], label
                    assert "secret" not in text, label
                    assert all((name in text) == names_open for name in OPEN), label
                secret, nothing = [
                    (await client.call(*completing(prefix)))["result"]["completion"]
                    for prefix in ("a:s", "none")
                ]
                assert secret == nothing
    finally:
        redis.command("ACL", "DELUSER", "fenced")
