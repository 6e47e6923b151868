"""What a change of the daemon did: one row for a commit, of the daemon alone, in the table of steps."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.bench import peers, rows
from tests.bench.daemons import Daemons
from tests.bench.report import Run, markdown, number
from tests.bench.rows import Bench
from tests.bench.waits import Waits
from tests.faults.cancelling import cancel_at_random
from tests.faults.killing import kill_under_load
from tests.support.daemon import running_daemon
from tests.support.mcp_client import EraName
from tests.support.one_call import one_call
from tests.support.servers import Server, start_redis

#: A row as its file holds it.
Step = Mapping[str, Any]

_DEPTHS = (1, 16, 64)
_ERAS: tuple[EraName, EraName] = ("handshake", "modern")
_ADD = {"stream": peers.STREAM, "entries": [peers.ENTRY]}
_CLIENTS = 1_000


@attrs.frozen
class _Tree:
    """A checkout whose daemon is measured.

    Attributes:
        path: Its root.
    """

    path: Path

    @property
    def variables(self) -> dict[str, str]:
        """What makes the installed program take the package from there."""
        return {"PYTHONPATH": str(self.path)}

    def git(self, *words: str) -> str:
        """Return what git says of it."""
        done = subprocess.run(["git", "-C", self.path, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()


def measure(name: str, tree: Path, *, rounds: int, seconds: float, cancels: int, kills: int) -> Step:
    """Measure the daemon of a checkout, with the tests of this one.

    Args:
        name: Of the step.
        tree: The root of the checkout.
        rounds: Of the rates and costs, whose median counts.
        seconds: Length of a window.
        cancels: Requests of the run with cancellations.
        kills: Kills of the run with kills.

    Raises:
        RuntimeError: The daemon that ran was not the checkout's.
    """
    checkout = _Tree(tree)
    found: dict[str, list[list[float]]] = defaultdict(list)
    with start_redis() as server:
        _say("one call, traced")
        passed = [one_call(server, era, "stream_add", _ADD, **checkout.variables) for era in _ERAS]
        for each in passed:
            if each.package != tree / "redstreamd":
                raise RuntimeError(f"the daemon ran from {each.package}")
        for turn in range(rounds):
            _say(f"round {turn + 1}/{rounds}")
            for figure, values in _rates(server, seconds, checkout.variables):
                found[figure].append(values)
        rng = random.Random(os.urandom(8))
        _say(f"{cancels:,} requests with cancellations")
        with running_daemon(server, preload=False, **checkout.variables) as daemon:
            cancelled = trio.run(cancel_at_random, daemon.path, server, rng, cancels)
        _say(f"{cancelled}\n{kills} kills")
        killed = trio.run(lambda: kill_under_load(server, rng, kills, **checkout.variables))
        _say(f"{killed}")
    for violation in (*cancelled.violations[:20], *killed.violations[:20]):
        _say(violation)
    return {
        "name": name,
        "commit": checkout.git("rev-parse", "--short=8", "HEAD")
        + ("+" if checkout.git("status", "--porcelain", "--", "redstreamd") else ""),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "load": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "rounds": rounds,
        "figures": {
            figure: [float(f"{statistics.median(of):.4g}") for of in zip(*values, strict=True)]
            for figure, values in found.items()
        },
        "cancels": {
            "requests": cancels,
            "cancelled": cancelled.seen["cancellations"],
            "violations": len(cancelled.violations),
        },
        "kills": {"kills": killed.kills, "violations": len(killed.violations)},
        "modules": [len(each.modules) for each in passed],
        "functions": [len(each.functions) for each in passed],
    }


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _rates(server: Server, seconds: float, variables: Mapping[str, str]) -> Iterator[tuple[str, list[float]]]:
    """Measure once: name of the figure, and its value in each era or of each part."""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(running_daemon(server, preload=False, **variables))
        eras = [peers.redstreamd(daemon.path, daemon.process.pid, modern=modern) for modern in (False, True)]
        bench = Bench(server, (eras[0], eras[1]), eras, seconds, full=True)
        for depth in _DEPTHS:
            samples = [
                rows.fresh(bench, lambda peer=peer, depth=depth: bench.asked(peer, peer.add, depth=depth))
                for peer in eras
            ]
            yield f"rate {depth}", [sample["rate"] for sample in samples]
            if depth == _DEPTHS[-1]:
                yield "server_us", [sample["server_us"] for sample in samples]
        woken = [cell.measure() for cell in Waits(server, daemon, 1).single()]
        yield "wake_p99_ms", [sample["p99_ms"] for sample in woken]
    own = Daemons(server, seconds, _CLIENTS, variables)
    memory = own.memory()
    yield "idle_kib", [memory["handshake_kib"], memory["modern_kib"]]
    start = own.starting()
    yield "start_ms", [start[name] for name in ("listening_ms", "direct_ms", "handshake_ms")]


def added(steps: Sequence[Step], step: Step) -> list[Step]:
    """Return the steps with one more, in the place of an earlier measurement of the same."""
    kept = [each for each in steps if (each["name"], each["commit"]) != (step["name"], step["commit"])]
    return [*kept, step]


def _values(values: Iterable[float]) -> str:
    return " / ".join(map(number, values))


def _row(step: Step) -> list[str]:
    figures = step["figures"]
    cancels, kills = step["cancels"], step["kills"]
    return [
        f"{step['name']} ({step['commit']}, {step['date']})",
        *(_values(figures[f"rate {depth}"]) for depth in _DEPTHS),
        *(_values(figures[name]) for name in ("server_us", "wake_p99_ms", "idle_kib", "start_ms")),
        f"{cancels['violations']} of {cancels['requests']:,}",
        f"{kills['violations']} of {kills['kills']:,}",
        _values(step["modules"]),
        _values(step["functions"]),
    ]


def table(run: Run) -> str:
    """Return the steps of a run's file."""
    head = ["step", *(f"calls/s at {depth}" for depth in _DEPTHS), "µs a call", "wake p99, ms"]
    head += ["idle, KiB", "start, ms", "cancels", "kills", "modules", "functions"]
    return markdown(head, map(_row, run.get("steps", ())))
