"""``redstreamd call TOOL JSON``: one tool call from a shell, its result on stdout.

Judges neither tool nor arguments; the daemon does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, NoReturn

from redstreamd.cli.client import envelope, exchange, request_line
from redstreamd.cli.discovery import UnreachableError, open_connection
from redstreamd.cli.terminal import complain, escaped


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("call", help="call one tool and print its result", allow_abbrev=False)
    parser.add_argument(
        "--socket", metavar="PATH", help="the daemon's socket, or tcp:HOST:PORT, instead of the usual places"
    )
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
        complain(f"the arguments are no JSON object: {wrong}")
        return os.EX_USAGE
    try:
        with open_connection(arguments.socket) as connection:
            response = exchange(connection, request)
    except UnreachableError as unreachable:
        complain(str(unreachable))
        return unreachable.exit_status
    except OSError as broken:
        complain(f"the daemon left before it answered ({broken}); whether the call took effect is not known")
        return os.EX_TEMPFAIL
    return _report(response)


def _request(tool: str, text: str) -> bytes:
    """Return the request's line, with the arguments exactly as they were written.

    Raises:
        ValueError: `text` is no JSON object.
    """
    try:
        arguments = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"it is {json.dumps(arguments)[:40]}")
    params = {"name": tool, "_meta": envelope("redstreamd-call")}
    return request_line("tools/call", f'{json.dumps(params)[:-1]}, "arguments": {text}}}')


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _report(response: dict[str, Any]) -> int:
    if error := response.get("error"):
        complain(f"{error.get('message')} ({error.get('code')})")
        return 1
    result = response["result"]
    structured = result.get("structuredContent")
    if result.get("isError"):
        _complain_of(structured if isinstance(structured, dict) else {"message": _text(result)})
        return 1
    if structured is None:
        document = _text(result)
    else:
        document = json.dumps(structured, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    # UTF-8 is JSON's encoding, whatever the locale says.
    sys.stdout.buffer.write(
        "\n".join(map(escaped, document.split("\n"))).encode("utf-8", "surrogatepass") + b"\n"
    )
    return 0


def _complain_of(error: dict[str, Any]) -> None:
    """Write a failed tool's code, message, cause and next step."""
    head = ": ".join(str(error[part]) for part in ("code", "message") if error.get(part))
    rest = [f"{part.replace('_', ' ')}: {error[part]}" for part in ("cause", "next_step") if error.get(part)]
    complain(head, *rest)


def _text(result: dict[str, Any]) -> str:
    """Return the text content of a result without a structured one."""
    content = result.get("content", [])
    return "\n".join(str(block["text"]) for block in content if block.get("type") == "text")
