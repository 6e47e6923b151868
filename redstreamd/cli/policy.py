"""``redstreamd policy``: explains what the rules decide, and prints the matching user of Redis."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from redstreamd.cli.options import add_settings_options, with_settings

if TYPE_CHECKING:
    from redstreamd.settings import Loaded


def add_to(commands: Any) -> None:
    """Add the command and its two parts to the parser."""
    parser = commands.add_parser(
        "policy", help="explain what the rules decide; print the matching user of Redis", allow_abbrev=False
    )
    parts = parser.add_subparsers(metavar="COMMAND", required=True)
    explain = parts.add_parser(
        "explain",
        help="say whether a principal may call a tool on a stream, and which rule decides; exit 1 if not",
        allow_abbrev=False,
    )
    explain.add_argument("principal", metavar="PRINCIPAL", help="such as the name of a socket: mcp")
    explain.add_argument("tool", metavar="TOOL", help="such as stream_add")
    explain.add_argument("stream", metavar="STREAM", help="the name of a stream, which need not exist")
    add_settings_options(explain)
    explain.set_defaults(run=lambda arguments: with_settings(arguments, partial(_explain, arguments)))
    acl = parts.add_parser(
        "redis-acl",
        help="print ACL SETUSER with the commands and keys that the tools and the rules need",
        allow_abbrev=False,
    )
    acl.add_argument("--user", metavar="NAME", help="the user of Redis; by default that of the settings")
    add_settings_options(acl)
    acl.set_defaults(run=lambda arguments: with_settings(arguments, partial(_redis_acl, arguments)))


def _explain(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_error, print_lines
    from redstreamd.daemon.policy_settings import explain
    from redstreamd.errors import BusError

    try:
        explanation = explain(loaded.settings, arguments.principal, arguments.tool, arguments.stream)
    except (LookupError, BusError) as invalid:
        print_error(str(invalid))
        return os.EX_USAGE
    print_lines(explanation.lines)
    return os.EX_OK if explanation.granted else 1


def _redis_acl(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.cli.terminal import print_lines
    from redstreamd.daemon.redis_acl import redis_acl

    user = arguments.user or loaded.settings.redis.username or "redstreamd"
    print_lines(redis_acl(loaded.settings, user))
    return os.EX_OK
