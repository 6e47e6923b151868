"""``redstreamd check-config``: prints every setting and which source set it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from redstreamd.cli.options import add_settings_options, with_settings

if TYPE_CHECKING:
    from redstreamd.settings import Loaded

_SOURCE_COLUMN = 52  # right of most settings, left of the edge of a narrow terminal


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check-config",
        help="print each setting with its source; exit 78 if one is wrong",
        allow_abbrev=False,
    )
    add_settings_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings as TOML, sources as comments, secrets masked; on stderr, what is hardly meant."""
    return with_settings(arguments, _print)


def _print(loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_error, print_lines
    from redstreamd.daemon.settings_checks import check_settings
    from redstreamd.encryption.encryption_rules import without_effect
    from redstreamd.settings import as_toml
    from redstreamd.settings.redis_topology import topology_hints

    rules = loaded.settings.encryption.streams
    for finding in (*check_settings(loaded), *without_effect(rules), *topology_hints(loaded.settings.redis)):
        print_error(finding)
    lines = []
    for key, source in loaded.sources.items():
        value = loaded.shown(key)
        # TOML has no null: a setting without a value is a comment.
        line = f"{'# ' if value is None else ''}{key} = {as_toml(value)}"
        lines.append(f"{line:<{_SOURCE_COLUMN}} # {source}")
    print_lines([*lines, *(f"# {line}" for line in _listeners(loaded))])
    return 0


def _listeners(loaded: Loaded) -> Iterator[str]:
    """Yield what each listener demands; sockets that the service manager passes on are not known here.

    Raises:
        SettingsError: A certificate, key or token cannot be used. What only the service may read is not read.
    """
    from redstreamd.daemon.settings_checks import check_files
    from redstreamd.settings import Kind, demands

    for address in loaded.settings.daemon.listen:
        yield f"{address} demands {demands(address.kind, loaded.settings)}"
    if not loaded.settings.daemon.listen:
        for kind in (Kind.UNIX, Kind.TCP, Kind.HTTP):
            yield f"a {kind} listener demands {demands(kind, loaded.settings)}"
    if (unreadable := check_files(loaded)) is not None:
        yield f"{unreadable} is not checked: this user may not read it"
