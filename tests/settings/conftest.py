"""Settings from texts, without looking at this machine's file or environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redstreamd.errors import SettingsError
from redstreamd.settings import Loaded, load


@pytest.fixture
def load_from(tmp_path: Path) -> Callable[..., Loaded]:
    """Load from a file's text, an environment and a command line, each empty by default."""

    file = tmp_path / "redstreamd.toml"
    written: list[str] = []

    def load_these(toml: str = "", environ: dict[str, str] | None = None, **options: Any) -> Loaded:
        # Many load thousands of times, and nearly always with the same text as before.
        if written != [toml]:
            file.write_text(toml, encoding="utf-8")
            written[:] = [toml]
        return load(config=file, environ=environ or {}, **options)

    return load_these


@pytest.fixture
def refusal(load_from: Callable[..., Loaded]) -> Callable[..., SettingsError]:
    """Return the error that the same arguments lead to."""

    def refused(toml: str = "", environ: dict[str, str] | None = None, **options: Any) -> SettingsError:
        with pytest.raises(SettingsError) as raised:
            load_from(toml, environ, **options)
        return raised.value

    return refused
