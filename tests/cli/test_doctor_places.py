"""Where doctor says that a setting of the service is to be changed: the files of its unit, not copies."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest
import trio

from redstreamd.cli import doctor
from redstreamd.cli.options import add_settings_options
from redstreamd.doctor import Service
from redstreamd.doctor.service_environment import find_service
from redstreamd.errors import remedies

RUNNING = "/run/credentials/redstreamd.service"


@pytest.fixture(autouse=True)
def without_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redstreamd.doctor.run_checks", nothing)
    for name in ("REDIS_PASSWORD", "REDIS_URL", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


async def nothing(*_: object, **__: object) -> list[object]:
    return []


def installed(
    directory: Path, *lines: str, config: str = "/dev/null", shown: tuple[str, ...] = ()
) -> Service:
    """Return the service of a unit with these lines, of which systemctl shows these properties."""
    show = "\n".join(
        [
            "LoadState=loaded",
            *shown,
            f"ExecStart={{ path=/r ; argv[]=/r serve --config {config} ; ignore_errors=no ; }}",
        ]
    )
    systemctl = directory / "systemctl"
    systemctl.write_text(
        f'#!/bin/sh\ncase "$*" in\n*show*) printf %s {shlex.quote(show)};;\n'
        f"*) printf %s {shlex.quote(chr(10).join(('[Service]', *lines)))};;\nesac\n",
        "utf-8",
    )
    systemctl.chmod(0o755)

    async def found() -> Service | None:
        return await find_service(
            environ={"HOME": str(directory), "XDG_RUNTIME_DIR": "/run"}, systemctl=(str(systemctl),)
        )

    service = trio.run(found)
    assert service is not None
    return service


def examine(service: Service, *options: str) -> None:
    parser = argparse.ArgumentParser()
    add_settings_options(parser)
    with service.readable_credentials() as readable:
        doctor._results(parser.parse_args(options), readable)


def test_the_environment_file_is_named_before_it_exists(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    examine(installed(tmp_path, shown=(f"EnvironmentFiles={file} (ignore_errors=yes)",)))
    assert remedies.password() == f"REDIS_PASSWORD in {file}"
    # A pattern is no file that can be made.
    examine(installed(tmp_path, shown=(f"EnvironmentFiles={file}.d/*.env (ignore_errors=yes)",)))
    assert remedies.password() == "REDIS_PASSWORD in the environment"


def test_of_several_environment_files_the_one_that_decides_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shown = tuple(f"EnvironmentFiles={file} (ignore_errors=no)" for file in (first, second))
    for texts, deciding in (
        (("REDIS_PASSWORD=a", "REDIS_PASSWORD=b"), second),
        (("REDIS_PASSWORD=a", "REDIS_HOST=b"), first),
        (("", ""), second),
    ):
        for file, text in zip((first, second), texts, strict=True):
            file.write_text(text, "utf-8")
        examine(installed(tmp_path, shown=shown))
        assert remedies.password() == f"REDIS_PASSWORD in {deciding}"


def test_a_variable_of_the_caller_is_not_looked_for_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "environment"
    file.write_text("REDIS_PASSWORD=a", "utf-8")
    monkeypatch.setenv("REDIS_PASSWORD", "b")
    examine(installed(tmp_path, shown=(f"EnvironmentFiles={file} (ignore_errors=no)",)))
    assert remedies.password() == "REDIS_PASSWORD in the environment"


@pytest.mark.parametrize("name", ["redstreamd.toml", "mine"])
def test_a_settings_file_that_is_a_credential_is_named_by_its_source(name: str, tmp_path: Path) -> None:
    source = tmp_path / "private.toml"
    source.write_text("[redis]\npassword = 'x'\n", "utf-8")
    service = installed(tmp_path, f"LoadCredential={name}:{source}", config=f"{RUNNING}/{name}")
    if not service.is_of_system:
        service = installed(
            tmp_path, f"LoadCredential={name}:{source}", config=f"{service.credentials_directory}/{name}"
        )
    examine(service)
    assert remedies.password() == f"redis.password in {source}"
    # The caller's own file is itself.
    examine(service, "--config", str(source))
    assert remedies.settings_file() == str(source)
