"""``redstreamd call TOOL JSON``: one tool call from a shell, its result on stdout.

Speaks revision 2026-07-28 of MCP, in which a request is complete in itself: one line out,
one line back, no handshake. Judges neither tool nor arguments; the daemon does.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from typing import Any, NoReturn

from redstreamd import __version__
from redstreamd.cli.reach import UnreachableError, open_connection
from redstreamd.cli.text import complain, escaped

_REQUEST_ID = 1
_ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "redstreamd-call", "version": __version__},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("call", help="call one tool and print its result", allow_abbrev=False)
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket instead of the usual places")
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
            response = _exchange(connection, request)
    except UnreachableError as unreachable:
        complain(str(unreachable))
        return os.EX_TEMPFAIL
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
    frame = {"jsonrpc": "2.0", "id": _REQUEST_ID, "method": "tools/call"}
    params = {"name": tool, "_meta": _ENVELOPE}
    # Decoding and encoding again would change what JSON leaves open (1e400, duplicate names);
    # the daemon is to judge that. Line breaks can only stand between tokens, and end a message.
    verbatim = text.replace("\r", " ").replace("\n", " ")
    head = f'{json.dumps(frame)[:-1]}, "params": {json.dumps(params)[:-1]}, "arguments": '
    return f"{head}{verbatim}}}}}\n".encode()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _exchange(connection: socket.socket, request: bytes) -> dict[str, Any]:
    """Send the request and return its response, passing over notifications.

    Raises:
        OSError: The connection ended first.
    """
    connection.sendall(request)
    with connection.makefile("rb") as lines:
        for line in lines:
            message = json.loads(line)
            # An error that could not be assigned to a request has a null ID; ours is the only one.
            if message.get("id", ...) in (_REQUEST_ID, None) and "method" not in message:
                return dict(message)
    raise ConnectionError("connection closed")


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
        print(_text(result))
        return 0
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
