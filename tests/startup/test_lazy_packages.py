"""Packages whose __init__ waits until a name of theirs is used."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from redstreamd.startup.lazy_packages import make_lazy

INIT = """
import time
from pathlib import Path
with (Path(__file__).parent / "runs").open("a") as file:
    file.write("x")
time.sleep(0.05)  # other threads come meanwhile
from .inner import VALUE
NAMES = ["a"]
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A lazy package ``outer``; says how often its __init__ has run."""
    package = tmp_path / "outer"
    package.mkdir()
    (package / "__init__.py").write_text(INIT)
    (package / "inner.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    make_lazy(["outer"])
    log = package / "runs"
    yield lambda: len(log.read_text()) if log.exists() else 0
    for name in [each for each in sys.modules if each.partition(".")[0] == "outer"]:
        del sys.modules[name]


def test_importing_a_submodule_does_not_run_the_packages_init(runs: Callable[[], int]) -> None:
    inner = importlib.import_module("outer.inner")
    assert (inner.VALUE, runs()) == (3, 0)
    outer = sys.modules["outer"]
    assert outer.inner is inner
    assert outer.__spec__ is not None
    assert (outer.__file__, runs()) == (outer.__spec__.origin, 0)


def test_using_a_name_runs_it_once_and_gives_what_an_ordinary_import_gives(runs: Callable[[], int]) -> None:
    outer = importlib.import_module("outer")
    assert runs() == 0
    assert (outer.VALUE, outer.NAMES, runs()) == (3, ["a"], 1)
    with pytest.raises(AttributeError, match="outer"):
        _ = outer.missing
    space: dict[str, object] = {}
    exec("from outer import VALUE, inner", space)
    assert (space["VALUE"], runs()) == (3, 1)


def test_threads_that_come_together_wait_for_one_run(runs: Callable[[], int]) -> None:
    outer = importlib.import_module("outer")
    values: list[int] = []
    threads = [threading.Thread(target=lambda: values.append(outer.VALUE)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=30)
    assert (values, runs()) == ([3] * 4, 1)


def test_an_init_that_fails_runs_again_for_the_next_name(tmp_path: Path, runs: Callable[[], int]) -> None:
    outer: ModuleType = importlib.import_module("outer")
    inner = tmp_path / "outer" / "inner.py"
    inner.write_text("raise RuntimeError('not now')\n")
    with pytest.raises(RuntimeError, match="not now"):
        _ = outer.VALUE
    # Of another length, and so not taken for what was compiled before.
    inner.write_text("VALUE = 4\n")
    assert (outer.VALUE, runs()) == (4, 2)
