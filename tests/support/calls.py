"""Calling tools as a client does, without sockets: JSON in, structured content out."""

from __future__ import annotations

import json
from collections import deque
from functools import cache
from typing import Any

import jsonschema

from redstreamd.policy import Principal
from redstreamd.streams.bus import Bus
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.schema import always_present, result_schema
from redstreamd.tools.toolbox import Toolbox, toolbox_over

ME = Principal("me", "unix")


async def no_progress(progress: float, total: float | None, message: str | None) -> None:
    """Report to nobody."""


async def answer(bus: Bus, tool: str, principal: Principal = ME, **arguments: Any) -> dict[str, Any]:
    """Call a tool and return the whole answer; its structured content fits the output schema."""
    toolbox = _toolbox(bus)
    found = toolbox.find(tool, principal)
    whole = (await toolbox.call(found, arguments, principal, no_progress)).as_values()
    # The other cause of this code is a server that lacks a command.
    if "failed unexpectedly" in whole.get("structuredContent", {}).get("message", ""):
        raise AssertionError(f"{tool} failed unexpectedly; its traceback is in the log")
    check = _schema_of(found.name)
    if check is not None:
        check.validate(whole["structuredContent"])
        if not whole["isError"]:
            assert found.result is not None
            assert set(always_present(found.result)) <= whole["structuredContent"].keys()
    return whole


_TOOLBOXES: deque[tuple[Bus, Toolbox[Bus]]] = deque(maxlen=4)


def _toolbox(bus: Bus) -> Toolbox[Bus]:
    """Return the toolbox of a domain; compiled once for each, since that costs more than a call."""
    for known, toolbox in _TOOLBOXES:
        if known is bus:
            return toolbox
    toolbox = toolbox_over(bus, REGISTRY, [Profile.OPERATOR, Profile.RED_STREAM])
    _TOOLBOXES.append((bus, toolbox))
    return toolbox


@cache
def _schema_of(name: str) -> jsonschema.Draft202012Validator | None:
    found = REGISTRY.get(name)
    return None if found.result is None else jsonschema.Draft202012Validator(result_schema(found.result))


async def call(bus: Bus, tool: str, principal: Principal = ME, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must succeed and return its structured content."""
    whole = await answer(bus, tool, principal, **arguments)
    assert not whole["isError"], whole["content"]
    content: dict[str, Any] = whole["structuredContent"]
    return content


async def refusal(bus: Bus, tool: str, principal: Principal = ME, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must fail and return the four parts of its error."""
    whole = await answer(bus, tool, principal, **arguments)
    assert whole["isError"], whole["content"]
    content: dict[str, Any] = whole["structuredContent"]
    assert all(content[part] for part in ("code", "message", "cause", "next_step"))
    return content


async def texts(bus: Bus, tool: str, principal: Principal = ME, **arguments: Any) -> Any:
    """Call a tool that must succeed and return the JSON in its text."""
    whole = await answer(bus, tool, principal, **arguments)
    assert not whole["isError"], whole["content"]
    return json.loads(whole["content"][0]["text"])


async def add(bus: Bus, count: int = 1) -> list[str]:
    """Add entries ``{"n": 0}``, ``{"n": 1}`` and so on to the stream s; return their IDs."""
    ids: list[str] = []
    for begin in range(0, count, 100):
        entries = [{"n": n} for n in range(begin, min(begin + 100, count))]
        ids += (await call(bus, "stream_add", stream="s", entries=entries))["ids"]
    return ids
