"""Tools with several actions take no argument of another action."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.streams.bus import Bus
from tests.support.calls import refusal
from tests.support.servers import Server


@pytest.mark.parametrize(
    ("action", "given", "belongs_to"),
    [
        ("destroy", {"consumer": "c"}, "remove_consumer"),
        ("destroy", {"start": "latest"}, "set_position"),
        ("set_position", {"start": "latest", "pending": "lose"}, "remove_consumer"),
        ("remove_consumer", {"consumer": "c", "delete_dead_letters": True}, "destroy"),
    ],
)
async def test_group_manage_does_nothing_with_an_argument_of_another_action(
    bus: Bus, server: Server, action: str, given: dict[str, Any], belongs_to: str
) -> None:
    group = {"stream": "s", "group": "g"}
    server.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    server.command("XGROUP", "CREATECONSUMER", "s", "g", "c")
    before = server.command("XINFO", "GROUPS", "s")
    refused = await refusal(bus, "group_manage", **group, action=action, **given, dry_run=False)
    assert server.command("XINFO", "GROUPS", "s") == before
    assert refused["code"] == "INVALID_ARGUMENT"
    assert belongs_to in refused["cause"]
