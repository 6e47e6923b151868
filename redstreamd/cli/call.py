"""``redstreamd call TOOL JSON``: makes one tool call and prints its result on stdout.

The daemon checks the tool's name and the arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, NoReturn

from redstreamd.cli.options import access_from, add_connection_options
from redstreamd.cli.terminal import print_error
from redstreamd.client.discovery import UnreachableError, open_connection
from redstreamd.client.single_request import exchange, request_line, request_meta
from redstreamd.visible_text import visible


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("call", help="call one tool and print its result", allow_abbrev=False)
    add_connection_options(parser)
    parser.add_argument("tool", metavar="TOOL", help="the tool's name, such as stream_list")
    parser.add_argument(
        "json", metavar="JSON", nargs="?", default="{}", help="its arguments, a JSON object; - for stdin"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the call; return 0, 1 if it failed, 64 for bad JSON, 75 without a daemon, 130 on Ctrl-C."""
    try:
        request = _request(arguments.tool, sys.stdin.read() if arguments.json == "-" else arguments.json)
    except ValueError as wrong:
        print_error(f"the arguments are not a JSON object: {wrong}")
        return os.EX_USAGE
    try:
        with open_connection(arguments.socket, access_from(arguments)) as connection:
            response = exchange(connection, request)
    except UnreachableError as unreachable:
        print_error(str(unreachable))
        return unreachable.exit_status
    except OSError as broken:
        print_error(f"the daemon did not answer ({broken}); whether the call took effect is not known")
        return os.EX_TEMPFAIL
    return _report(response)


def _request(tool: str, text: str) -> bytes:
    """Return the request's line, with the arguments exactly as they were written.

    Raises:
        ValueError: `text` is not a JSON object.
    """
    try:
        arguments = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"it is {json.dumps(arguments)[:40]}")
    params = {"name": tool, "_meta": request_meta("redstreamd-call")}
    return request_line("tools/call", f'{json.dumps(params)[:-1]}, "arguments": {text}}}')


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _report(response: dict[str, Any]) -> int:
    if error := response.get("error"):
        print_error(f"{error.get('message')} ({error.get('code')})")
        return 1
    result = response["result"]
    structured = result.get("structuredContent")
    if result.get("isError"):
        _print_failure(structured if isinstance(structured, dict) else {"message": _text(result)})
        return 1
    if structured is None:
        document = _text(result)
    else:
        document = json.dumps(structured, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    # UTF-8 is JSON's encoding, whatever the locale says.
    sys.stdout.buffer.write("\n".join(map(visible, document.split("\n"))).encode() + b"\n")
    return 0


def _print_failure(error: dict[str, Any]) -> None:
    """Print a failed tool's code, message, cause and next step."""
    head = ": ".join(str(error[part]) for part in ("code", "message") if error.get(part))
    rest = [f"{part.replace('_', ' ')}: {error[part]}" for part in ("cause", "next_step") if error.get(part)]
    print_error(head, *rest)


def _text(result: dict[str, Any]) -> str:
    """Return the text content of a result without structured content."""
    content = result.get("content", [])
    return "\n".join(str(block["text"]) for block in content if block.get("type") == "text")
