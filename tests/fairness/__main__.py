"""Runs the polite client alone and beside the attackers of some rows: ``python -m tests.fairness --row 43``.

--row 43        the rows whose name begins so; may be repeated; without it all
--tree PATH     the daemon of another checkout, with the packages installed here
--seconds 5     how long beside each attacker
--profile       who has the loop meanwhile (py-spy in this environment)
--full          what Redis holds is as large as in the soak
--valkey        Valkey instead of Redis
--set NAME=VALUE  a setting of the daemon; may be repeated
--brief         one line for each row
--table         the lines of the table in docs/reliability.md
--first         before other programs of the machine, where autogroups are (needs root)
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fairness.field import Field
from tests.fairness.figures import GOALS_P50, GOALS_P99, KINDS, Beside, Polite, quantile
from tests.fairness.rows import MIB, ROWS
from tests.support.daemon import running_daemon
from tests.support.servers import start_redis, start_valkey

ROOT = Path(__file__).parent.parent.parent


def _ms(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def _polite(name: str, polite: Polite, *, beside: Polite | None = None) -> list[str]:
    head = f"{name}: {polite.calls} calls, {len(polite.refused)} refused, {polite.lost} lost"
    lines = [f"{head} ({' / '.join(KINDS)}, ms)"]
    for label, values, fair in (
        ("p50", polite.p50(), polite.p50(fair=True)),
        ("p99", polite.p99(), polite.p99(fair=True)),
    ):
        text = f"  {label:8}{_ms(values)}   without waiting for a core: {_ms(fair)}"
        if beside is not None:
            alone = beside.p50() if label == "p50" else beside.p99()
            text += f"   times the baseline: {_ms([a / b for a, b in zip(values, alone, strict=True)])}"
        lines.append(text)
    lines.append(f"  longest {_ms(polite.longest)}")
    lines.append(f"  the daemon ran during a call, p99: {_ms([quantile(each, 0.99) for each in polite.ran])}")
    late = [quantile(polite.late, share) for share in (0.5, 0.99, 1.0)]
    lines.append(f"  its own sleeps ended late by p50 / p99 / most: {_ms(late)} ms")
    return lines


def report(found: Beside, baseline: Polite) -> list[str]:
    """Return what is printed of a row."""
    before, peak, left = (each / MIB for each in found.memory)
    attack = found.attack
    count = (
        f"{attack['answers'] / attack['seconds']:,.0f} answers/s, {attack['errors']} errors,"
        f" sent {attack['sent'] / MIB:.1f} MiB, received {attack['received'] / MIB:.1f} MiB,"
        f" {attack['closed']} connections closed by the daemon, {attack['refused']} refused,"
        f" {attack['open']} open at the end, {attack['flooded'] / attack['seconds']:,.0f} XADD/s"
    )
    lines = [
        "",
        f"Row {found.row.name}: {found.row.does}",
        *_polite("polite beside it", found.polite, beside=baseline),
        f"  attacker: {count}",
    ]
    if attack["last_error"]:
        lines.append(f"  its last error: {attack['last_error'][:400]}")
    lines.append("  cores: " + ", ".join(f"{name} {each:.2f}" for name, each in found.cores.items()))
    memory = f"before {before:.0f}, most {peak:.0f}, afterwards {left:.0f} MiB"
    lines.append(f"  memory: {memory}; went on working for {found.rest_seconds:.1f} s")
    lines += [f"  {share:5.0%} {name}" for share, name in found.frames]
    short, fair = found.shortfalls(baseline), found.shortfalls(baseline, fair=True)
    verdict = "goal reached" if not short else "goal NOT reached: " + "; ".join(short)
    if short and not fair:
        verdict += " (reached without waiting for a core)"
    return [*lines, f"{found.row.name}: {verdict}"]


def brief(found: Beside, baseline: Polite) -> str:
    """Return one line."""
    polite = found.polite
    before, peak, left = (each / MIB for each in found.memory)
    short, fair = found.shortfalls(baseline), found.shortfalls(baseline, fair=True)
    verdict = "ok" if not short else ("ok but for cores" if not fair else "NOT reached")
    cores = "/".join(f"{each:.2f}" for each in found.cores.values())
    rate = found.attack["answers"] / found.attack["seconds"]
    times = f"p50 {_ms(polite.p50()):18} p99 {_ms(polite.p99()):20}"
    times += f" fair {_ms(polite.p50(fair=True)):16} {_ms(polite.p99(fair=True)):20}"
    return (
        f"{found.row.name:4} {times} refused {len(polite.refused)} lost {polite.lost}"
        f" MiB {before:.0f}/{peak:.0f}/{left:.0f} rest {found.rest_seconds:.1f} cores {cores}"
        f" {rate:,.0f}/s errors {found.attack['errors']} {verdict}"
    )


def table_row(found: Beside) -> str:
    """Return the line of the table in docs/reliability.md."""
    _, peak, left = (each / MIB for each in found.memory)
    served = f"{found.attack['answers'] / found.attack['seconds']:,.0f}"
    cells = [found.row.name, found.row.does, _ms(found.polite.p50()), _ms(found.polite.p99())]
    return f"| {' | '.join([*cells, f'{peak:.0f}, {left:.0f}', served])} |"


def main() -> None:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fairness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--row", action="append", default=[])
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--valkey", action="store_true")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    # What was started is ended, too, if this is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = [row for row in ROWS if not options.row or row.name.startswith(tuple(options.row))]
    tree = options.tree.resolve()
    head = subprocess.run(["git", "-C", tree, "log", "-1", "--format=%h %s"], capture_output=True, text=True)
    print(f"the daemon of {tree}: {head.stdout.strip()}")
    print(f"goals: p50 {_ms(GOALS_P50)}, p99 {_ms(GOALS_P99)} ms; 512 MiB")
    settings = [word for each in options.set for word in ("--set", each)]
    reached = 0
    for row in rows:
        # A daemon each, so that a row is the same whichever were run before it.
        with (
            start_valkey() if options.valkey else start_redis() as server,
            running_daemon(server, *settings, PYTHONPATH=str(tree)) as daemon,
        ):
            if options.first and server.process is not None:
                for pid in (os.getpid(), server.process.pid, daemon.process.pid):
                    Path(f"/proc/{pid}/autogroup").write_text("-15", "ascii")
            field = Field(server, daemon)
            field.prepare()
            baseline = field.alone(min(3.0, options.seconds))
            if row is rows[0] or not (options.brief or options.table):
                print("\n".join(_polite("polite alone", baseline)), flush=True)
            found = field.beside(row, options.seconds, full=options.full, profile=options.profile)
            field.judge()
            reached += not found.shortfalls(baseline)
            if options.table:
                print(table_row(found), flush=True)
            elif options.brief:
                print(brief(found, baseline), flush=True)
            else:
                print("\n".join(report(found, baseline)), flush=True)
    if len(rows) > 1:
        print(f"{reached} of {len(rows)} rows reach their goals")
    sys.exit(reached < len(rows))


if __name__ == "__main__":
    main()
