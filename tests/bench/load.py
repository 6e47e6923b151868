"""Runs the load generator (load.c) on connections that are open, and judges what it counted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

import attrs

from tests.bench import install

#: The descriptors from which answers are read and to which requests are written; of a socket, the same twice.
Link = tuple[int, int]


class LoadError(Exception):
    """A call failed, went unanswered, or was answered with something else than was asked for."""


@attrs.frozen
class Result:
    """What was counted between the warm-up and the end.

    Attributes:
        calls: Answers.
        cycles: Answers to the last of the templates.
        tally: How often the pattern occurred in them.
        timed: How many p50, p99 and longest are of: those that were in flight at the end, too.
        failed: Answers that are errors; without `tolerant` the first raises.
        seconds: Length of the window.
        own_cpu: CPU seconds of the generator.
        unanswered: Requests without an answer a minute after the end.
        p50: Median time from sending a request to its answer, in seconds.
        p99: 99th percentile of it.
        longest: The longest.
        cpu: CPU seconds of each watched process.
    """

    calls: int
    cycles: int
    tally: int
    timed: int
    failed: int
    seconds: float
    own_cpu: float
    unanswered: int
    p50: float
    p99: float
    longest: float
    cpu: list[float]


def template(tool: str, arguments: object, *, meta: object = None) -> bytes:
    """Return the line of a tools/call request, with @ID@ where its id goes."""
    params = {"name": tool, "arguments": arguments} | ({} if meta is None else {"_meta": meta})
    message = {"jsonrpc": "2.0", "id": "@ID@", "method": "tools/call", "params": params}
    return json.dumps(message, separators=(",", ":")).replace('"@ID@"', "@ID@", 1).encode() + b"\n"


@attrs.define
class Load:
    """A generator that runs."""

    process: subprocess.Popen[bytes]
    per_call: int | None

    def result(self) -> Result:
        """Wait for its end and return what it counted.

        Raises:
            LoadError: Any call failed, or the answers hold the pattern another number of times.
        """
        output, errors = self.process.communicate()
        if self.process.returncode:
            raise LoadError(errors.decode(errors="replace").strip())
        result = Result(**json.loads(output))
        if result.unanswered:
            raise LoadError(f"{result.unanswered} calls were not answered")
        if self.per_call is not None and result.tally != self.per_call * result.calls:
            raise LoadError(f"{result.tally} parts in {result.calls} answers, not {self.per_call} in each")
        return result


@contextlib.contextmanager
def started(
    links: Sequence[Link],
    templates: Sequence[bytes],
    *,
    depth: int = 1,
    seconds: float = 1.0,
    warm_up: float = 0.3,
    gap: float = 0.0,
    tolerant: bool = False,
    pattern: str = "",
    per_call: int | None = None,
    pids: Sequence[int] = (),
    head: bytes = b"",
) -> Iterator[Load]:
    """Start the generator; it is ended with the block.

    Args:
        links: Connections that are ready for calls.
        templates: The requests that each chain sends in turn.
        depth: Chains on each connection, each with one request in flight.
        seconds: Length of the window in which it counts.
        warm_up: Seconds before it.
        gap: Least seconds from one request of a chain to the next.
        tolerant: Count errors, instead of ending with the first.
        pattern: What to count in the answers.
        per_call: How often it must be in each; None for any number.
        pids: Processes of which the CPU time is taken.
        head: The request line and headers of HTTP that each request is sent with, without its length; empty
            to send lines.
    """
    with tempfile.NamedTemporaryFile() as file, tempfile.NamedTemporaryFile() as head_file:
        file.write(b"".join(templates))
        file.flush()
        head_file.write(head)
        head_file.flush()
        process = subprocess.Popen(
            [
                *(
                    install.generator(),
                    str(seconds),
                    str(warm_up),
                    str(depth),
                    str(gap),
                    str(int(tolerant)),
                    file.name,
                    pattern,
                ),
                ",".join(map(str, pids)),
                head_file.name if head else "",
                *(f"{inward}:{outward}" for inward, outward in links),
            ],
            pass_fds={number for link in links for number in link},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield Load(process, per_call)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def run(links: Sequence[Link], templates: Sequence[bytes], **options: object) -> Result:
    """Run it to its end; the options are those of `started`."""
    with started(links, templates, **options) as load:
        return load.result()
