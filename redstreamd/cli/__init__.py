"""The command line: one module per command. Only the module of the one that is run is imported.

MCP clients and shell scripts start ``connect`` and ``call`` for each session or call, so these use the
standard library only; a test checks that.
Exit statuses are those of sysexits.h: 64 usage, 75 try again later, 78 settings.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

from redstreamd import __version__
from redstreamd.addresses.address_syntax import MASK, without_login
from redstreamd.visible_text import visible

#: In the order in which help lists them; the module of each has its name.
_COMMANDS: Final = (
    "serve",
    "stdio",
    "connect",
    "call",
    "status",
    "reload",
    "check-config",
    "policy",
    "keys",
    "tokens",
    "audit",
    "doctor",
)


class _Formatter(argparse.HelpFormatter):
    """argparse's own, without its import of shutil for the width, which each start would pay for."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() and columns.isascii() else 0
        if not width:
            # No terminal, or no standard output.
            with contextlib.suppress(OSError, ValueError):
                width = os.get_terminal_size().columns
        super().__init__(prog, width=(width or 80) - 2)


class _Parser(argparse.ArgumentParser):
    """argparse with sysexits' exit status for wrong usage; argparse's own is 2."""

    # The command line that is being parsed; it may hold secrets in wrong places.
    _words: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options with the usage of the command; argparse shows that of the whole program."""
        self._words = args or ()
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(map(_without_value, unknown))}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        for word in self._words:
            # Also the value joined to an option, which argparse quotes separately.
            for part in (word, word.partition("=")[2]):
                if (shown := without_login(part)) != part:
                    message = message.replace(repr(part), repr(shown)).replace(part, shown)
        # The value given to an option that takes none may be a secret.
        message = re.sub(r"(?<=ignored explicit argument ).*", MASK, message, flags=re.DOTALL)
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {visible(message)}\n{self.prog} --help says more\n")


def _without_value(word: str) -> str:
    """Return an unknown word of the command line with everything masked that may be a secret."""
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
    words = sys.argv[1:] if argv is None else argv
    # All of them for a usage or a help that lists them.
    for command in words[:1] if words and words[0] in _COMMANDS else _COMMANDS:
        import_module(f"{__name__}.{command.replace('-', '_')}").add_to(commands)
    arguments = parser.parse_args(words)
    try:
        exit_status: int = arguments.run(arguments)
        print(end="", flush=True)  # unlike sys.stdout.flush(), works where there is no standard output
    except BrokenPipeError:
        # The reader of our output has closed it. Python would report another error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return exit_status
