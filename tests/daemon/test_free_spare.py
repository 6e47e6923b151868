"""What is kept to save microseconds of a call is forgotten after a peak: one of it holds a megabyte."""

from __future__ import annotations

from redstreamd.daemon.parts import free_spare
from redstreamd.service.collector import Collector
from redstreamd.streams.bus import Bus
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.toolbox import toolbox_over
from tests.support.buses import ON_REDIS
from tests.support.calls import ME, no_progress


@ON_REDIS
async def test_verdicts_on_what_clients_named_are_forgotten_and_found_again(bus: Bus) -> None:
    toolbox = toolbox_over(bus, REGISTRY, [Profile.OPERATOR])
    wait = toolbox.find("stream_wait", ME)
    arguments = {"streams": [f"s{number}" for number in range(100)], "timeout_seconds": 0}
    for _ in range(2):
        assert not (await toolbox.call(wait, arguments, ME, no_progress)).is_error
        assert len(toolbox.permitted) == 100
        free_spare(bus, toolbox, Collector())
        assert not toolbox.permitted
        assert not bus.names.creatable
