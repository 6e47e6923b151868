"""``redstreamd doctor``: checks settings, Redis and the daemon, and says what to do."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from redstreamd.cli.options import add_settings_options, load_from, own_files, settings_file
from redstreamd.cli.terminal import print_lines

if TYPE_CHECKING:
    from redstreamd.doctor import CheckResult, Service
    from redstreamd.settings import Loaded

_MARKS: Final = {"ok": "ok  ", "skipped": "--  ", "warning": "WARN", "error": "FAIL"}
_NAME_COLUMN: Final = 16  # the longest name of a check, and a space


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="check settings, Redis and the daemon; exit 1 for warnings, 2 for errors",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of text")
    parser.add_argument(
        "--no-service",
        action="store_true",
        help="check the settings of this shell, also where redstreamd is installed as a service",
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 0, 1 for warnings, 2 for errors, 78 if the settings are not valid."""
    import trio

    from redstreamd.doctor import exit_status, find_service, results_without_settings
    from redstreamd.errors import SettingsError

    service = None if arguments.no_service else trio.run(find_service)
    with contextlib.nullcontext() if service is None else service.readable_credentials() as readable:
        try:
            checks = _results(arguments, readable)
            status = exit_status(checks)
        except SettingsError as invalid:
            checks, status = results_without_settings(invalid, readable), os.EX_CONFIG
    print_lines(_as_json(checks) if arguments.json else _as_text(checks))
    return status


def _results(arguments: argparse.Namespace, service: Service | None) -> list[CheckResult]:
    """Run the checks with the settings of the service, or with those of this shell.

    The caller's options and variables override those of the service's unit. Under sudo the caller has only
    variables that were given explicitly.
    """
    import trio

    from redstreamd.daemon.settings_checks import check_settings
    from redstreamd.doctor import run_checks
    from redstreamd.errors.remedies import THE_ENVIRONMENT, note_files

    def checked(loaded: Loaded) -> list[CheckResult]:
        loaded.note_sources()
        unused = check_settings(loaded)
        return trio.run(partial(run_checks, loaded, without_effect=unused, service=service))

    if service is None:
        note_files(*own_files(arguments.config))
        return checked(load_from(arguments))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_settings_options(parser)
    given, _ = parser.parse_known_args(list(service.arguments))
    merged = argparse.Namespace(
        config=arguments.config or given.config,
        set=[*given.set, *arguments.set],
        listen=arguments.listen or given.listen,
        embedded=arguments.embedded or given.embedded,
    )
    own = {name: value for name, value in os.environ.items() if name.startswith(("REDIS_", "REDSTREAMD_"))}
    environ = {**service.environ, **own}
    note_files(
        settings_file(merged.config, environ.get("CREDENTIALS_DIRECTORY"), service.credential_files()),
        # The last one overrides the others.
        str(next(reversed(service.environment_files), THE_ENVIRONMENT)),
        {**service.variable_files, **dict.fromkeys(own, THE_ENVIRONMENT)},
    )
    return checked(load_from(merged, environ))


def _as_json(checks: Sequence[CheckResult]) -> list[str]:
    import json

    names = ("check", "severity", "tried", "seen", "todo")
    return json.dumps(
        [{name: str(getattr(check, name)) for name in names} for check in checks], indent=2
    ).split("\n")


def _as_text(checks: Sequence[CheckResult]) -> list[str]:
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.severity]} {check.check:<{_NAME_COLUMN}}{check.seen}")
        indent = " " * (5 + _NAME_COLUMN)
        if check.severity in ("warning", "error"):
            lines.append(f"{indent}tried: {check.tried}")
        if check.todo:
            lines.append(f"{indent}-> {check.todo}")
    return lines
