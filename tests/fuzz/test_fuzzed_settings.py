"""Random settings, in files, variables and options: each is taken, or refused by a text that names it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from redstreamd.errors import SettingsError
from redstreamd.settings import as_toml, load
from redstreamd.settings.definitions import DEFINITIONS, GROUPS
from redstreamd.visible_text import visible
from tests.conftest import FIGURE
from tests.fuzz import seeded
from tests.fuzz.mutations import TEXTS, VALUES, damaged
from tests.support.counts import counts
from tests.support.measured import measured

#: Texts that are valid somewhere, and so nearly valid after a change.
EXAMPLES: Final = (
    "redis://user:pass@[::1]:6379/3",
    "rediss://h?db=1",
    "unix:///run/redis.sock",
    "h:6379",
    "tcp:127.0.0.1:7000",
    "unix:/run/a/mcp.sock",
    "stream_add@agents=1000/s burst 50",
    "agents reports-* may read publish on jobs:* logs:*",
    "* may read consume manage on *",
    "/etc/redstreamd/tls.pem",
    "2026-01-01T00:00:00Z",
    "0x10",
    "1_000",
    "5s",
    "yes",
)
DEFAULTS: Final = load(default_file=Path("/none"), environ={})
#: Characters of an error: some sentences.
MOST: Final = 4_000
#: Seconds that one set of settings may take, many times the usual.
LONGEST: Final = 2.0


def setting(rng: random.Random) -> tuple[str, Any]:
    """Return a key, mostly one that exists, and a value: the default, one of its kind, or any."""
    if rng.random() < 0.5:
        key = rng.choice(list(DEFINITIONS))
        return key, DEFAULTS.shown(key)
    key = rng.choice(list(DEFINITIONS)) if rng.random() < 0.9 else f"{rng.choice(GROUPS)}.{rng.choice(TEXTS)}"
    match rng.randrange(6):
        case 0:
            return key, rng.choice(VALUES)
        case 1:
            return key, rng.choice(TEXTS)
        case 2:
            return key, [rng.choice(EXAMPLES) for _ in range(rng.randrange(3))]
        case 3:
            return key, rng.choice((1, 10, 1_000, 60.0, True))
    text = rng.choice(EXAMPLES)
    return key, text if rng.random() < 0.5 else damaged(rng, text.encode()).decode("utf-8", "replace")


def toml(rng: random.Random) -> bytes:
    """Return a settings file, or what is meant to be one."""
    tables: dict[str, list[str]] = {}
    for _ in range(rng.randrange(1, 6)):
        key, given = setting(rng)
        group, _, name = key.partition(".")
        name = name if name.isidentifier() else as_toml(name.encode("utf-8", "replace").decode())
        tables.setdefault(group, []).append(f"{name} = {written(given)}")
    text = "".join(f"[{group}]\n" + "\n".join(lines) + "\n" for group, lines in tables.items())
    data = text.encode("utf-8", "surrogatepass")
    return damaged(rng, data) if rng.random() < 0.4 else data


def written(given: Any) -> str:
    """Return a value as TOML, as far as TOML has it."""
    if isinstance(given, dict):
        return "{" + ", ".join(f"{as_toml(name)} = {written(each)}" for name, each in given.items()) + "}"
    if isinstance(given, list | tuple):
        return "[" + ", ".join(map(written, given)) + "]"
    if isinstance(given, str) or given is True or given is False:
        return as_toml(given)
    return "nothing" if given is None else repr(given)


def sources(rng: random.Random, file: Path) -> dict[str, Any]:
    """Return the arguments of `load`: a file, variables and options."""
    file.write_bytes(toml(rng))
    environ: dict[str, str] = {}
    assignments: list[str] = []
    for _ in range(rng.choice((0, 0, 1, 3))):
        key, given = setting(rng)
        text = str(given).replace("\x00", "")
        environ[f"REDSTREAMD_{key.replace('.', '_').upper()}"] = text
        environ[rng.choice(("REDIS_URL", "REDIS_HOST", "REDIS_PORT"))] = rng.choice((*EXAMPLES, text))
        key, given = setting(rng)
        assignments.append(rng.choice((f"{key}={given}", f"{key}={written(given)}", key)))
    listen = [rng.choice(EXAMPLES)] if rng.random() < 0.2 else []
    config = file if rng.random() < 0.95 else file.parent
    return {"config": config, "environ": environ, "assignments": assignments, "listen": listen}


@pytest.mark.parametrize("seconds", counts(1.0, ci=20, full=600))
def test_settings_are_taken_or_refused_in_one_line_whatever_they_are(
    seconds: float, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng, repeat = seeded("settings")
    print(repeat)
    taken = refused = 0
    ends = time.monotonic() + seconds
    # Where the machine has little time to give, it takes longer.
    while time.monotonic() < ends or taken < 5 or refused < 20:
        given = sources(rng, tmp_path / "settings.toml")
        began = time.thread_time()
        try:
            loaded = load(**given)
        except SettingsError as error:
            refused += 1
            text = str(error)
            assert text == visible(text), repeat
            assert 10 < len(text) < MOST, f"{repeat}: {text}"
        except BaseException as defect:
            raise AssertionError(f"{repeat}: {given}: {given['config'].read_bytes()!r}") from defect
        else:
            taken += 1
            # What check-config prints of it.
            for key in DEFINITIONS:
                assert "\n" not in as_toml(loaded.shown(key)), repeat
        with measured:
            assert time.thread_time() - began < LONGEST, f"{repeat}: {given}"
    record_property(FIGURE, f"fuzz ({repeat}): {taken} settings taken, {refused} refused")
