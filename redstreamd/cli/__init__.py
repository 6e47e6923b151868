"""The command line: one module a command, and as little imported as the command needs.

``connect`` and ``call`` are started by MCP clients and shell scripts, once per session or
call, so what every command shares is standard library only; a test holds them to it.
Exit statuses are those of sysexits.h: 64 usage, 75 try again later, 78 settings.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from redstreamd import __version__
from redstreamd.addresses.address_syntax import MASK, without_login
from redstreamd.cli import call, check_config, connect, doctor, serve, status, stdio


class _Parser(argparse.ArgumentParser):
    """argparse with sysexits' status for wrong usage (its own, 2, means nothing to systemd)."""

    # The words that are being parsed, which may hold secrets in places where none belongs.
    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is unknown here; argparse has it refused with the usage of the whole program."""
        self._words = args or ()
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(map(_option, unknown))}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        for word in self._words:
            # Also what is joined to an option, which argparse quotes by itself.
            for part in (word, word.partition("=")[2]):
                if (shown := without_login(part)) != part:
                    message = message.replace(repr(part), repr(shown)).replace(part, shown)
        # Given to an option that takes nothing, it may be anything.
        message = re.sub(r"(?<=ignored explicit argument ).*", MASK, message, flags=re.DOTALL)
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n{self.prog} --help says more\n")


def _option(word: str) -> str:
    """Return a word of the command line that means nothing there, as far as it is surely no secret."""
    option, equals, _ = word.partition("=")
    if not option.startswith("-"):
        return MASK
    if not option.startswith("--") and len(option) > 2:
        # The value may follow the letter, as in -psecret.
        return f"{option[:2]}{MASK}"
    return f"{option}={MASK}" if equals else option


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: The arguments; without any, those of the process.
    """
    parser = _Parser(
        prog="redstreamd", description="Redis Streams for AI agents, served over MCP.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"redstreamd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (serve, stdio, connect, call, status, check_config, doctor):
        command.add_to(commands)
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        exit_status: int = arguments.run(arguments)
        print(end="", flush=True)  # unlike the stream's own flush, also where there is no standard output
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it
        # flushes at exit, so let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return exit_status
