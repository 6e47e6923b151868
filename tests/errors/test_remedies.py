"""What errors and records tell people to change, they also say where, and in whole sentences."""

from __future__ import annotations

import argparse
import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from redstreamd.cli import serve
from redstreamd.cli.options import add_settings_options, load_from, own_files
from redstreamd.daemon.reload_table import differences, in_force
from redstreamd.errors import remedies
from redstreamd.settings import Loaded, describe, load
from redstreamd.settings.reloading import RESTART_ONLY
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
    assert {key: ENVIRONMENT[variable] for key, variable in remedies.PASSWORDS.items()} == {
        key: key for key in remedies.PASSWORDS
    }


def calls_while_imported(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of a module that are made when it is imported, but for the arguments of @declared(...).

    Those are the catalog of the installed service, whose places are the usual ones.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = (each for each in node.args.kw_defaults if each is not None)
            others = (
                each
                for each in node.decorator_list
                if not (isinstance(each, ast.Call) and getattr(each.func, "id", "") == "declared")
            )
            for each in (*node.args.defaults, *defaults, *others):
                yield from calls_while_imported(ast.Expr(each))
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from calls_while_imported(node)


def test_no_text_that_names_a_place_is_made_before_the_settings_are_read() -> None:
    """The places are known only then; the daemon also imports much later, which nobody should rely on."""
    placed = {"setting", "password", "settings_file", "_own_certificate", "_of_a_principal"}
    early = [
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for call in calls_while_imported(ast.parse(path.read_text("utf-8")))
        if getattr(call.func, "id", "") in placed
    ]
    assert early == []
    # The same search finds one.
    assert [*calls_while_imported(ast.parse("TEXT = f'{setting(1)}'"))]


LIMIT = "limits.max_connections"


@pytest.mark.parametrize(
    ("options", "environ", "text"),
    [
        ((), {}, "limits.max_connections in /etc/redstreamd/redstreamd.toml"),
        (("--config", "my.toml"), {}, "limits.max_connections in {here}/my.toml"),
        (("--set", f"{LIMIT}=300"), {}, "limits.max_connections (given by --set limits.max_connections)"),
        (
            ("--config", "my.toml"),
            {"REDSTREAMD_LIMITS_MAX_CONNECTIONS": "300"},
            "limits.max_connections (given by environment variable REDSTREAMD_LIMITS_MAX_CONNECTIONS)",
        ),
    ],
)
def test_a_setting_is_named_with_what_gives_it(
    options: tuple[str, ...],
    environ: dict[str, str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text("[limits]\nmax_connections = 300\n", "utf-8")
    loaded = read(options, environ)
    assert str(loaded.sources[LIMIT]).startswith("file ") == text.endswith("/my.toml")
    assert "file my.toml" not in map(str, loaded.sources.values())
    assert remedies.setting(LIMIT) == text.format(here=tmp_path)


def test_settings_that_are_given_by_several_are_named_apart(tmp_path: Path) -> None:
    read(("--config", "/dev/null"), {"REDIS_HOST": "a"})
    assert remedies.setting("redis.host", "redis.port") == (
        "redis.host (given by environment variable REDIS_HOST) and redis.port in /dev/null "
        "(REDIS_PORT in the environment)"
    )
    read((), {"REDIS_URL": "redis://a:1"})
    assert remedies.setting("redis.host", "redis.port") == (
        "redis.host and redis.port (given by environment variable REDIS_URL)"
    )


@pytest.mark.parametrize(
    ("file", "environ", "text"),
    [
        ("", {}, "REDIS_PASSWORD in the environment"),
        ("", {"REDIS_PASSWORD": "x"}, "REDIS_PASSWORD in the environment"),
        ("", {"REDIS_URL": "redis://:x@a"}, "the password (given by environment variable REDIS_URL)"),
        ("password = 'x'", {}, "redis.password in {file}"),
        (
            "password_file = '/run/secret'",
            {},
            (
                "the password in the file of redis.password_file in {file} "
                "(REDIS_PASSWORD_FILE in the environment)"
            ),
        ),
        # Of a password and its file the later is in force.
        ("password_file = '/run/secret'", {"REDIS_PASSWORD": "x"}, "REDIS_PASSWORD in the environment"),
        (
            "password_file = '/run/secret'",
            {"REDIS_URL": "redis://:x@a"},
            "the password (given by environment variable REDIS_URL)",
        ),
        (
            "password = 'x'",
            {"REDIS_PASSWORD_FILE": "/run/secret"},
            (
                "the password in the file of redis.password_file "
                "(given by environment variable REDIS_PASSWORD_FILE)"
            ),
        ),
        (
            "",
            {"REDIS_PASSWORD": "x", "REDSTREAMD_REDIS_PASSWORD": "y"},
            "REDSTREAMD_REDIS_PASSWORD in the environment",
        ),
    ],
)
def test_a_password_is_named_where_it_is(
    file: str, environ: dict[str, str], text: str, tmp_path: Path
) -> None:
    settings = tmp_path / "my.toml"
    settings.write_text(f"[redis]\n{file}\n", "utf-8")
    read(("--config", str(settings)), environ)
    assert remedies.password() == text.format(file=settings)


def test_an_option_that_ends_the_file_of_a_password_is_not_where_it_is() -> None:
    read(("--config", "/dev/null", "--set", "redis.password_file="), {"REDIS_PASSWORD": "x"})
    assert remedies.password() == "REDIS_PASSWORD in the environment"
    read(("--config", "/dev/null", "--set", "redis.password_file="), {})
    assert remedies.password() == "REDIS_PASSWORD in the environment"


def test_a_service_gets_its_secrets_from_the_file_of_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    read((), {})
    assert remedies.password() == "REDIS_PASSWORD in /etc/redstreamd/environment"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    read(("--config", "/dev/null"), {})
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    # As in the unit, wherever the settings are.
    for options in (), ("--config", "/dev/null"):
        read(options, {})
        assert remedies.password() == "REDIS_PASSWORD in /home/a/.config/redstreamd/environment"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    read((), {})
    assert remedies.password() == f"REDIS_PASSWORD in {tmp_path}/redstreamd/environment"


@pytest.mark.parametrize(
    ("name", "variables", "place"),
    [
        ("redstreamd.toml", {}, "/etc/redstreamd/redstreamd.toml"),
        (
            "redstreamd.toml",
            {"XDG_RUNTIME_DIR": "/run/user/1", "XDG_CONFIG_HOME": "/c"},
            "/c/redstreamd/redstreamd.toml",
        ),
        ("mine", {}, "the credential mine of the service"),
    ],
)
def test_a_credential_is_named_by_what_can_be_edited(
    name: str, variables: dict[str, str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file in the directory of credentials is a copy that nobody may write to."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for variable, value in {"CREDENTIALS_DIRECTORY": str(tmp_path), **variables}.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / name).write_text("[redis]\npassword = 'x'\n", "utf-8")
    read(("--config", f"{tmp_path}/{name}"), {})
    assert remedies.setting(LIMIT) == f"{LIMIT} in {place}"
    assert remedies.password() == f"redis.password in {place}"
    assert remedies.settings_file() == place
    # A daemon that cannot start waits until that is corrected.
    watched = serve._settings_paths(argparse.Namespace(config=f"{tmp_path}/{name}"))
    assert watched[0] == place


def test_settings_that_are_only_read_change_no_text(tmp_path: Path) -> None:
    """A reload reads them in a thread, and may refuse them then."""
    read(("--config", "/dev/null"), {"REDIS_PASSWORD": "x"})
    (tmp_path / "new.toml").write_text("[redis]\npassword_file = '/run/secret'\n", "utf-8")
    parser = argparse.ArgumentParser()
    add_settings_options(parser)
    loaded = load_from(parser.parse_args(["--config", str(tmp_path / "new.toml")]), {"HOME": "/"})
    assert remedies.password() == "REDIS_PASSWORD in the environment"
    loaded.note_sources()
    assert "the file of redis.password_file" in remedies.password()


@pytest.mark.parametrize("key", RESTART_ONLY)
def test_what_stays_in_force_until_a_restart_is_named_where_it_was_set(key: str) -> None:
    remedies.note_sources({key: "$BEFORE", LIMIT: "$BEFORE"}, frozenset({key, LIMIT}))
    remedies.note_sources({key: "--set"}, frozenset({key}), frozenset({key}))
    assert remedies.setting(key) == f"{key} (given by $BEFORE)"
    assert remedies.setting(LIMIT) == f"{LIMIT} in {remedies.settings_file()}"
    # Nothing gave it, and the restart is still to come.
    remedies.note_sources({}, frozenset())
    remedies.note_sources({key: "--set"}, frozenset({key}), frozenset({key}))
    assert "given by" not in remedies.setting(key)


def test_another_topology_leaves_the_password_where_it_was(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "new.toml"
    secret.write_text("x")
    secret.chmod(0o600)
    file.write_text(f"[redis]\nhost = 'a'\npassword_file = '{secret}'\n")
    before = read(("--config", str(file)), {})
    text = remedies.password()
    assert "the file of redis.password_file" in text
    sentinels = "topology = 'sentinel'\nnodes = ['b:26379']\nsentinel_primary = 'm'\n"
    file.write_text(f"[redis]\n{sentinels}password = 'y'\n")
    after = load(config=file, environ={"HOME": "/"})
    now = in_force(before.settings, after.settings)
    after.note_sources(kept=differences(now, after.settings))
    assert remedies.password() == text
    # It was taken back.
    before.note_sources(kept=differences(now, before.settings))
    assert remedies.password() == text


def read(options: tuple[str, ...], environ: dict[str, str]) -> Loaded:
    """Read settings and put them into force, as a command does."""
    parser = argparse.ArgumentParser()
    add_settings_options(parser)
    arguments = parser.parse_args(options)
    remedies.note_files(*own_files(arguments.config))
    loaded = load_from(arguments, {"HOME": "/", **environ})
    loaded.note_sources()
    return loaded


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
