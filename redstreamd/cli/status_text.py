"""What ``redstreamd status`` says of a report: its parts as lines.

A daemon that was not restarted since an upgrade reports less; what it does not report is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from redstreamd.cli.status_graphs import attention_lines, history_lines, limit_lines
from redstreamd.cli.status_layout import Line
from redstreamd.cli.status_units import duration
from redstreamd.cli.terminal_graphics import Glyphs
from redstreamd.errors.remedies import setting, unit_setting
from redstreamd.startup.descriptors import needed_for
from redstreamd.startup.installed_version import replaced

_BOUNDS: Final = {"connections": "limits.max_connections", "descriptors": "the limit of file descriptors"}


def report_lines(report: Mapping[str, Any], glyphs: Glyphs) -> Iterator[Line]:
    """Yield the lines of a report."""
    sharing = report.get("sharing") or {}
    name = f"instance {sharing['instance']}, " if sharing.get("instance") else ""
    yield Line(f"redstreamd {report['redstreamd']}", f"{name}{_process(report['process'])}")
    yield from process_lines(sharing, report["process"]["pid"])
    if other := replaced(report):
        seen, todo = other
        yield Line("", seen, "warning")
        yield Line("", f"-> {todo}")
    yield from _redis(report["redis"])
    if clients := report.get("clients"):
        yield Line(
            "clients",
            f"{clients['connections']} connected, {clients['requests_in_flight']} requests in flight; "
            f"{clients['accepted']} accepted so far, {clients['refused']} rejected",
        )
        yield from (Line("", line) for line in connection_bounds(clients))
    if http := report.get("http"):
        yield Line(
            "",
            f"{http['connections']} over HTTP, {http['sessions']} sessions, "
            f"{http['event_streams']} streams of events",
        )
    for number, busy in enumerate(report.get("work", {}).get("busiest", [])):
        yield Line("" if number else "busiest", busy_text(busy))
    # What others do is left out for whoever may not manage any stream.
    if waiting := report.get("waiting"):
        how = "told by the server" if waiting["tracking"] else "looking four times a second"
        waits = f"{waiting['watches']} waits on {waiting['keys']} streams"
        yield Line("waiting", f"{waits}, {how}" if waiting["watches"] else waits)
    if subscribed := report.get("subscriptions"):
        yield Line("subscriptions", f"{subscribed['subscriptions']} to {subscribed['topics']} topics")
    if (encryption := report.get("encryption")) and (encryption["keys"] or encryption["rules"]):
        yield Line("encryption", _encryption(encryption))
    yield from limit_lines(report.get("limits") or {}, glyphs)
    yield from history_lines(report.get("history") or {}, glyphs)
    yield from attention_lines(report.get("attention") or {})


def process_lines(sharing: Mapping[str, Any], this: int) -> Iterator[Line]:
    """Yield a line for each of several processes that share their sockets, with what it has."""
    processes = sharing.get("processes", [])
    if len(processes) < 2:
        return
    for number, each in enumerate(processes):
        name = f"instance {each['instance']}" if each["instance"] else "main"
        which = ", which answers" if each["pid"] == this else ""
        line = f"{name}: process {each['pid']}, {each['connections']} connected{which}"
        yield Line("" if number else "processes", line)


def redis_problems(redis: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the problems with Redis; a PING without an answer is one more, if none of them explains it."""
    ping = redis["ping"]
    problems: list[Mapping[str, Any]] = redis.get("troubles", [])
    # A missing connection has its reason among the problems, and the PING goes over this one.
    connections = [node["connections"] for node in redis.get("nodes", [])] or [redis["connections"]]
    explained = any("cause" in each.get("command", {}) for each in connections)
    return problems if ping["answered"] or explained else [*problems, ping]


def _redis(redis: Mapping[str, Any]) -> Iterator[Line]:
    if problems := redis_problems(redis):
        for number, problem in enumerate(problems):
            where = f"{redis['address']}, DEGRADED: " if number == 0 else ""
            yield Line("" if number else "redis", f"{where}{problem['cause']}", "alarm")
            if "next_step" in problem:
                yield Line("", f"-> {problem['next_step']}")
    else:
        yield Line("redis", f"{redis['address']}, {_ping(redis)}")
    if nodes := redis.get("nodes"):
        for node in nodes:
            yield Line("", f"{node['address']}: {_ping(node)}", "" if node["ping"]["answered"] else "alarm")
            yield from _connections(node)
    else:
        yield from _connections(redis)


def _ping(server: Mapping[str, Any]) -> str:
    ping = server["ping"]
    return f"answers in {ping['seconds'] * 1000:.1f} ms" if ping["answered"] else "does not answer"


def _connections(server: Mapping[str, Any]) -> Iterator[Line]:
    for role, state in server["connections"].items():
        yield Line("", f"{state.get('for', role)}: {_connection(state)}")


def _connection(state: Mapping[str, Any]) -> str:
    if state["connected"]:
        return f"{state['server']}, connected for {duration(state['for_seconds'])}"
    for_how_long = f"not connected for {duration(state['for_seconds'])}"
    if "cause" not in state:
        return for_how_long
    return f"{for_how_long}, {state['failed_attempts']} attempts failed: {state['cause']}"


def connection_bounds(clients: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be known of the bounds of connections."""
    configured = clients.get("max_connections", 0)
    limit = clients.get("limit", configured)
    if bound := clients.get("full"):
        what = _BOUNDS.get(bound, bound)
        yield f"as many as can be ({what}): newcomers displace whoever holds most, or are rejected"
    if limit < configured:
        raised = f"{unit_setting('LimitNOFILE=')} to {needed_for(configured)}"
        yield f"room for {limit} of {configured}, for want of file descriptors"
        lowered = clients.get("max_connections_set") or setting("limits.max_connections")
        yield f"-> Raise {raised}, or lower {lowered}."
    holders = clients.get("holders", [])
    if bound or any(holder["connections"] > 1 for holder in holders):
        yield "most are held by " + ", ".join(map(_holder, holders))


def busy_text(busy: Mapping[str, Any]) -> str:
    """Return what one process uses."""
    connections = "1 connection" if busy["connections"] == 1 else f"{busy['connections']} connections"
    who = f"{busy['process']} ({busy['user']}, {busy['principal']}, {connections})"
    commands = f"{busy['running']} commands at Redis, {busy['queued']} waiting"
    return f"{who}: {busy['share']:.1%} of a core, {commands}"


def _encryption(figures: Mapping[str, Any]) -> str:
    writing = figures["writing_key"]
    writes = "no key writes" if writing is None else f"key {writing} writes"
    keys = "1 key" if figures["keys"] == 1 else f"{figures['keys']} keys"
    return f"{writes}, of {keys} ({', '.join(figures['key_ids'])}); {figures['rules']} rules"


def _holder(holder: Mapping[str, Any]) -> str:
    peer = holder["address"]
    if peer is None:
        name = f" ({holder['process']})" if holder["process"] else ""
        peer = f"process {holder['pid']}{name}" if holder["pid"] else "an unknown process"
    return f"{peer}: {holder['connections']}"


def _process(figures: Mapping[str, Any]) -> str:
    return (
        f"process {figures['pid']}, up {duration(figures['uptime_seconds'])}, "
        f"{figures['memory_bytes'] / (1 << 20):.0f} MiB, {figures['cpu_seconds']:.1f} s of CPU, "
        f"{figures['descriptors']} descriptors"
    )
