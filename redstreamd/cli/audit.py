"""``redstreamd audit``: verifies the chain of audit records in an export of the journal."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from redstreamd.cli.options import add_settings_options, with_settings

if TYPE_CHECKING:
    from redstreamd.audit.verification import Verified
    from redstreamd.settings import Loaded


def add_to(commands: Any) -> None:
    """Add the command and its part to the parser."""
    parser = commands.add_parser(
        "audit", help="verify the chain of audit records in an export of the journal", allow_abbrev=False
    )
    parts = parser.add_subparsers(metavar="COMMAND", required=True)
    verify = parts.add_parser(
        "verify",
        help="say which audit records are intact, and which are missing or changed; exit 1 unless all "
        "are intact",
        allow_abbrev=False,
    )
    verify.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="what journalctl --output=export or --output=json printed; - for standard input",
    )
    verify.add_argument(
        "--key", metavar="FILE", help="the key of the chain instead of audit.key in the state directory"
    )
    verify.add_argument(
        "--to-end",
        action="store_true",
        help="demand that the export reaches the end of the chain, which audit.chain beside the key knows",
    )
    verify.add_argument("--json", action="store_true", help="print the result as JSON")
    add_settings_options(verify)
    verify.set_defaults(run=lambda arguments: with_settings(arguments, partial(_verify, arguments)))


def _verify(arguments: argparse.Namespace, loaded: Loaded) -> int:
    from redstreamd.audit.chain import END_FILE, KEY_FILE, End, read_end, read_key
    from redstreamd.audit.journal_export import UnreadableExportError, records
    from redstreamd.audit.verification import verify
    from redstreamd.cli.terminal import print_error, print_lines
    from redstreamd.errors.remedies import setting
    from redstreamd.startup.state_directory import own_state

    daemon = loaded.settings.daemon
    directory = own_state(daemon.state_directory, daemon.instance)
    path = Path(arguments.key) if arguments.key is not None else directory / KEY_FILE
    try:
        key = read_key(path)
        end = (read_end(path.with_name(END_FILE)) or End()) if arguments.to_end else None
    except OSError as error:
        off = "" if daemon.audit_chain else f" There is a chain only with {setting('daemon.audit_chain')}."
        print_error(
            f"cannot read the key of the chain: {error}; name it with --key, or run this as root or as the "
            f"daemon's user with the daemon's settings.{off}"
        )
        return os.EX_NOINPUT
    try:
        with _opened(arguments.file) as stream:
            verified = verify(key, records(stream), end)
    except OSError as error:
        print_error(f"cannot read the export: {error}")
        return os.EX_NOINPUT
    except UnreadableExportError as error:
        print_error(f"this is no export of the journal: {error}; journalctl --output=export prints one")
        return os.EX_DATAERR
    print_lines([_json(verified)] if arguments.json else _report(verified))
    return os.EX_OK if verified.is_intact else 1


def _opened(file: str) -> BinaryIO:
    # The caller closes it.
    return open(0, "rb", closefd=False) if file == "-" else Path(file).open("rb")


def _report(verified: Verified) -> list[str]:
    lines = [f"chain {verified.chain}"]
    for each in verified.ranges:
        count = each.last - each.first + 1
        lines.append(f"intact: records {each.first} to {each.last} ({count})")
    lines += [f"PROBLEM: {each}" for each in verified.problems]
    lines += [f"note: {each}" for each in verified.notes]
    lines.append("The chain is intact." if verified.is_intact else "The chain is NOT intact.")
    return lines


def _json(verified: Verified) -> str:
    import msgspec

    return msgspec.json.encode({**msgspec.to_builtins(verified), "intact": verified.is_intact}).decode()
