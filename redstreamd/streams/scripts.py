"""Loads the Lua scripts that lie beside this module."""

from __future__ import annotations

from importlib import resources

from redstreamd.redisio.script import Script


def load(*names: str) -> Script:
    """Return the script made of the files ``lua/<name>.lua``, one after the other."""
    folder = resources.files(__package__) / "lua"
    return Script("".join((folder / f"{name}.lua").read_text("utf-8") for name in names))
