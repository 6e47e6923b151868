"""What errors and records tell people to change, they also say where, and in whole sentences."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from redstreamd.errors import remedies
from redstreamd.settings import describe
from redstreamd.settings.sources import DEFAULT_FILE, ENVIRONMENT

PACKAGE = Path(__file__).parents[2] / "redstreamd"

KEYS = {described.key for described in describe()}
#: A setting in prose, by its key or by its variable; not where it is given on a command line that is shown,
#: and not in the fixed form "setting KEY cannot be used", which names its source.
SETTING = re.compile(
    rf"(?<!--set )(?<!^setting )(?<![=\w.])(?:{'|'.join(sorted(map(re.escape, KEYS), reverse=True))}"
    r"|(?:REDSTREAMD_)?REDIS_(?:URL|HOST|PORT|USERNAME|PASSWORD|PASSWORD_FILE|DB|TOPOLOGY|NODES|SENTINEL_[A-Z_]+))"
    r"(?![\w.]*=)"
)

#: Where settings are defined, read and checked: their errors name the source of the value themselves. A page
#: of the documents is none of this either.
DEFINITIONS = {"settings", "addresses", "reference", "remedies.py", "configured_target.py"}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module that are not documentation, with their lines."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


def test_every_setting_that_a_text_names_is_named_with_the_place_where_it_is_set() -> None:
    """By `remedies`, so that all of them say it in one way."""
    bare = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if DEFINITIONS.isdisjoint(path.relative_to(PACKAGE).parts)
        for line, text in prose(path)
        # A key by itself is a name in the code, not a text.
        if " " in text.strip() and SETTING.search(text)
    ]
    assert bare == []


def test_the_places_are_the_real_ones() -> None:
    assert Path(remedies.SETTINGS_FILE) == DEFAULT_FILE
    assert {ENVIRONMENT[variable]: variable for variable in remedies.VARIABLES.values()} == remedies.VARIABLES
    assert ENVIRONMENT[remedies.PASSWORD.split()[0]] == "redis.password"
    assert ENVIRONMENT[remedies.SENTINEL_PASSWORD.split()[0]] == "redis.sentinel_password"


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (("it broke", "Wait."), "it broke. Wait."),
        (("it broke.", "Wait."), "it broke. Wait."),
        (("what now?", "Wait"), "what now? Wait"),
        (("cut…", "Wait."), "cut… Wait."),
        (("", "Wait."), "Wait."),
        (("it broke ", ""), "it broke"),
        ((), ""),
    ],
)
def test_sentences_have_one_full_stop_each(parts: tuple[str, ...], line: str) -> None:
    assert remedies.sentences(*parts) == line
