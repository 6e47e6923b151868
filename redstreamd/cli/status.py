"""``redstreamd status``: prints the report of the running daemon (the resource redstream://health)."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from redstreamd.cli.options import access_from, add_connection_options
from redstreamd.cli.terminal import print_error, print_lines
from redstreamd.client.discovery import UnreachableError, open_connection
from redstreamd.client.single_request import exchange, health_request
from redstreamd.errors.remedies import setting, unit_setting
from redstreamd.startup.descriptors import needed_for
from redstreamd.startup.installed_version import replaced

#: Seconds for the answer. The daemon asks Redis for at most one; beyond this limit it hangs.
_ANSWER_SECONDS: Final = 10.0
_BOUNDS: Final = {"connections": "limits.max_connections", "descriptors": "the limit of file descriptors"}
_NAME_COLUMN: Final = 18  # "redstreamd" and a version


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "status", help="tell how the running daemon is; exit 1 if Redis fails it", allow_abbrev=False
    )
    add_connection_options(parser)
    parser.add_argument("--json", action="store_true", help="print the daemon's report as it is")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 0, or 1 if there is a problem with Redis, or 75 if no daemon answers."""
    try:
        with open_connection(arguments.socket, access_from(arguments)) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            report = _report(exchange(connection, health_request("redstreamd-status")))
    except UnreachableError as unreachable:
        print_error(str(unreachable))
        return unreachable.exit_status
    except OSError as broken:
        print_error(f"the daemon accepts, but does not answer ({broken}); read `journalctl -u redstreamd`")
        return os.EX_TEMPFAIL
    except ValueError as refused:
        print_error(f"the daemon does not tell: {refused}")
        return os.EX_TEMPFAIL
    print_lines(json.dumps(report, indent=2).split("\n") if arguments.json else _lines(report))
    return 1 if _problems(report["redis"]) else 0


def _report(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report in a response.

    Raises:
        ValueError: There is none.
    """
    if error := response.get("error"):
        raise ValueError(f"{error.get('message')} ({error.get('code')})")
    try:
        report: dict[str, Any] = json.loads(response["result"]["contents"][0]["text"])
    except LookupError:
        raise ValueError("its answer has no report") from None
    return report


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report as text, a part a line and its details below it."""
    yield _line(f"redstreamd {report['redstreamd']}", _process(report["process"]))
    if other := replaced(report):
        seen, todo = other
        yield _line("", seen)
        yield _line("", f"-> {todo}")
    redis = report["redis"]
    if problems := _problems(redis):
        for number, problem in enumerate(problems):
            where = f"{redis['address']}, DEGRADED: " if number == 0 else ""
            yield _line("" if number else "redis", f"{where}{problem['cause']}")
            if "next_step" in problem:
                yield _line("", f"-> {problem['next_step']}")
    else:
        yield _line("redis", f"{redis['address']}, answers in {redis['ping']['seconds'] * 1000:.1f} ms")
    for role, state in redis["connections"].items():
        # A daemon that was not restarted since an upgrade may not say what it is for.
        yield _line("", f"{state.get('for', role)}: {_connection(state)}")
    if clients := report.get("clients"):
        yield _line(
            "clients",
            f"{clients['connections']} connected, {clients['requests_in_flight']} requests in flight; "
            f"{clients['accepted']} accepted so far, {clients['refused']} rejected",
        )
        yield from (_line("", line) for line in _connection_bounds(clients))
    # A daemon that was not restarted since an upgrade may not report any.
    for number, busy in enumerate(report.get("work", {}).get("busiest", [])):
        yield _line("" if number else "busiest", _busy(busy))
    # What others do is left out for whoever may not manage any stream.
    if waiting := report.get("waiting"):
        how = "told by the server" if waiting["tracking"] else "looking four times a second"
        waits = f"{waiting['watches']} waits on {waiting['keys']} streams"
        yield _line("waiting", f"{waits}, {how}" if waiting["watches"] else waits)
    if subscribed := report.get("subscriptions"):
        yield _line("subscriptions", f"{subscribed['subscriptions']} to {subscribed['topics']} topics")


def _connection_bounds(clients: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be known of the bounds of connections; a daemon of an older version tells nothing."""
    configured = clients.get("max_connections", 0)
    limit = clients.get("limit", configured)
    if bound := clients.get("full"):
        what = _BOUNDS.get(bound, bound)
        yield f"as many as can be ({what}): newcomers displace whoever holds most, or are rejected"
    if limit < configured:
        raised = f"{unit_setting('LimitNOFILE=')} to {needed_for(configured)}"
        yield f"room for {limit} of {configured}, for want of file descriptors"
        yield f"-> Raise {raised}, or lower {setting('limits.max_connections')}."
    holders = clients.get("holders", [])
    if bound or any(holder["connections"] > 1 for holder in holders):
        yield "most are held by " + ", ".join(map(_holder, holders))


def _busy(busy: Mapping[str, Any]) -> str:
    connections = "1 connection" if busy["connections"] == 1 else f"{busy['connections']} connections"
    who = f"{busy['process']} ({busy['user']}, {busy['principal']}, {connections})"
    commands = f"{busy['running']} commands at Redis, {busy['queued']} waiting"
    return f"{who}: {busy['share']:.1%} of a core, {commands}"


def _holder(holder: Mapping[str, Any]) -> str:
    peer = holder["address"]
    if peer is None:
        name = f" ({holder['process']})" if holder["process"] else ""
        peer = f"process {holder['pid']}{name}" if holder["pid"] else "an unknown process"
    return f"{peer}: {holder['connections']}"


def _problems(redis: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the problems with Redis; a PING without an answer is one more, if none of them explains it."""
    ping = redis["ping"]
    # A daemon that was not restarted since an upgrade may not report any.
    problems: list[Mapping[str, Any]] = redis.get("troubles", [])
    # A missing connection has its reason among the problems, and the PING goes over this one.
    explained = "cause" in redis["connections"].get("command", {})
    return problems if ping["answered"] or explained else [*problems, ping]


def _line(name: str, text: str) -> str:
    return f"{name:<{_NAME_COLUMN}}{text}"


def _process(figures: Mapping[str, Any]) -> str:
    return (
        f"process {figures['pid']}, up {_duration(figures['uptime_seconds'])}, "
        f"{figures['memory_bytes'] / (1 << 20):.0f} MiB, {figures['cpu_seconds']:.1f} s of CPU, "
        f"{figures['descriptors']} descriptors"
    )


def _connection(state: Mapping[str, Any]) -> str:
    if state["connected"]:
        return f"{state['server']}, connected for {_duration(state['for_seconds'])}"
    for_how_long = f"not connected for {_duration(state['for_seconds'])}"
    if "cause" not in state:
        return for_how_long
    return f"{for_how_long}, {state['failed_attempts']} attempts failed: {state['cause']}"


def _duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
