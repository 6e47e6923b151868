"""A release: what `make release` refuses, and its wheel, which pipx installs and which then serves a call."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.counts import long
from tests.support.daemon import clean_environment, home, running_daemon
from tests.support.wheels import SERVICE_PYTHON, wheelhouse

REPOSITORY = Path(__file__).resolve().parents[2]
NUMBER = "7.8.9"


def git(directory: Path, *words: str) -> None:
    identity = ("-c", "user.name=A Test", "-c", "user.email=test@redstreamd.example")
    subprocess.run(["git", "-C", directory, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def clone() -> Iterator[Path]:
    """A repository with the files of this checkout as they are now, ready to be released as `NUMBER`."""
    listing = ("git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    with home() as place:
        directory = place / "clone"
        for name in listed.split("\0")[:-1]:
            if (REPOSITORY / name).exists():  # else it is deleted, and that is not committed yet
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, directory / name)
        git(directory, "init", "--quiet")
        (directory / "redstreamd" / "__init__.py").write_text(f'__version__ = "{NUMBER}"\n')
        changelog = directory / "CHANGELOG.md"
        text = changelog.read_text("utf-8")
        changelog.write_text(text.replace("## Unreleased", f"## Unreleased\n\n## {NUMBER} - 2026-01-31", 1))
        git(directory, "add", "--all")
        git(directory, "commit", "--quiet", "--message", "A release")
        yield directory


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, **options)


def release(clone: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, clone / "contrib" / "release.py")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_checkout_that_is_not_ready_is_refused_with_each_reason(clone: Path) -> None:
    git(clone, "tag", f"v{NUMBER}")
    edit(clone / "CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n- Something new.\n")
    edit(clone / "CHANGELOG.md", "- 2026-01-31", "- 31 January")
    git(clone, "commit", "--all", "--quiet", "--message", "More")
    (clone / "left-over.txt").touch()
    refused = release(clone)
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"{NUMBER} cannot be released:",
        "- the checkout has changes that are not committed: ?? left-over.txt",
        f"- v{NUMBER} is the tag of another commit: raise __version__ in redstreamd/__init__.py",
        f'- CHANGELOG.md has text under "Unreleased": move it to "{NUMBER} - <date>"',
        f'- the heading "{NUMBER} - 31 January" in CHANGELOG.md has no date of the form 2026-01-31',
    ]
    edit(clone / "redstreamd" / "__init__.py", NUMBER, "7.9")
    assert "is 7.9, not of the form 1.2.3" in (refused := release(clone)).stderr
    assert f'is not 7.9, but "{NUMBER} - 31 January"' in refused.stderr
    assert not (clone / "dist").exists()


@long
def test_the_wheel_of_a_release_is_installed_by_pipx_and_serves_a_call(clone: Path) -> None:
    # The tag of the very commit is no obstacle: a build that failed half way is repeated.
    git(clone, "tag", "--annotate", "--message", NUMBER, f"v{NUMBER}")
    released = release(clone)
    assert released.returncode == 0, released.stderr
    wheel, sdist = f"redstreamd-{NUMBER}-py3-none-any.whl", f"redstreamd-{NUMBER}.tar.gz"
    assert {file.name for file in (clone / "dist").iterdir()} == {wheel, sdist}
    assert released.stdout.splitlines()[:2] == [f"dist/{wheel}", f"dist/{sdist}"]

    place, wheels = clone.parent, wheelhouse()
    environment = clean_environment(
        place,
        PIPX_HOME=str(place / "pipx"),
        PIPX_BIN_DIR=str(place / "bin"),
        PIPX_MAN_DIR=str(place / "man"),
        # What the tests of `make install` have fetched, and the pip that comes with Python.
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(wheels),
        # pipx's own pip, which is no part of what it installs.
        PIPX_SHARED_LIBS=str(wheels.parent / "pipx-pip"),
        PIPX_DISABLE_SHARED_LIBS_AUTO_UPGRADE="1",
        PYTHONWARNINGS="",  # those of pip are not ours
    )
    # Modules are compiled when they are first imported: pip would compile all of every package.
    pipx = (sys.executable, "-m", "pipx", "install", "--verbose", "--python", SERVICE_PYTHON)
    what = ("--pip-args=--no-compile", f"{clone / 'dist' / wheel}[embedded]")
    installed = run(*pipx, *what, env=environment, cwd=place)
    assert installed.returncode == 0, installed.stderr

    program = place / "bin" / "redstreamd"
    assert run(program, "--version", env=environment).stdout == f"redstreamd {NUMBER}\n"
    with running_daemon(None, directory=place, program=(program,)):
        arguments = json.dumps({"stream": "demo:released:wheel", "entries": [{"text": "hello"}]})
        answer = run(program, "call", "stream_add", arguments, env=environment)
        assert answer.returncode == 0, answer.stderr
        assert len(json.loads(answer.stdout)["ids"]) == 1
