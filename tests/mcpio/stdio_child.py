"""A process for the tests of standard input and output: serves two tools on them, and makes noise.

It serves what a daemon can serve before it has imported the SDK: the import takes longer than the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import trio

from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.exchange import Exchange, Sink
from redstreamd.mcpio.pending_kernels import PendingKernels
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.mcpio.session import Session
from redstreamd.mcpio.standard_streams import open_stdio_stream
from redstreamd.policy import Principal

GREETING = {"capabilities": {"tools": {}}, "serverInfo": {"name": "test", "version": "1"}}


def call_tool(session: Session, call: PlainCall, size: int, sink: Sink) -> bool:
    """Answer a call of ``echo`` or ``big``."""
    exchange = Exchange(session, call.id, "tools/call", None, size, sink)
    if not session.settle_era(call.era) or not session.in_flight.add(exchange):
        return False
    arguments = json.loads(bytes(call.arguments))
    text = arguments["text"] if call.tool == "echo" else "x" * arguments["bytes"]
    exchange.answer(jsonrpc.result(exchange.id, {"content": [{"type": "text", "text": text}]}))
    return True


def descriptors() -> tuple[object, ...]:
    """Describe descriptors 0 and 1, and count all of them."""
    standard = [(os.fstat(each).st_dev, os.fstat(each).st_ino, os.get_blocking(each)) for each in (0, 1)]
    return (*standard, len(list(Path("/proc/self/fd").iterdir())))


def make_noise() -> None:
    """Print in all the ways there are, and have a child read."""
    print("printed by Python")
    os.write(1, b"written to descriptor 1\n")
    subprocess.run(["echo", "printed by a child"], check=True)
    print("the child's input:", subprocess.run(["cat"], stdout=subprocess.PIPE, check=True).stdout)


async def main() -> None:
    """Serve one client, and say on standard error whether the descriptors are afterwards what they were."""
    if "print-first" in sys.argv:
        # Left in Python's buffer when the stream is opened.
        sys.stdout.write("printed before\n")
    before = descriptors()
    async with open_stdio_stream() as stream:
        make_noise()
        kernels, principal = PendingKernels(GREETING), Principal("tester", "unix")
        await ClientConnection(stream, kernels, direct_path=call_tool, principal=principal).run()
        sys.stdout.write("printed last, and left in the buffer\n")
    after = descriptors()
    if sys.stderr is not None:
        print("descriptors as before" if before == after else f"{before} {after}", file=sys.stderr)


if __name__ == "__main__":
    trio.run(main)
