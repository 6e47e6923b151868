"""Checks a Redis Cluster: whether its nodes answer and agree, and somebody serves every slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio

from redstreamd.doctor.members import Found, Member
from redstreamd.doctor.report import CheckResult, error, ok, skipped, warning
from redstreamd.redisio.announced_address import Address
from redstreamd.redisio.cluster_views import Source, ask_one
from redstreamd.redisio.redis_errors import Problem
from redstreamd.redisio.slot_map import SlotMap, View, agreed, slot_of
from redstreamd.redisio.target import Deployment

_NODES, _CHECK = "nodes", "topology"
_TRIED: Final = "comparing what the nodes say of the cluster (CLUSTER INFO, CLUSTER SLOTS)"

#: Numbers tried as a hash tag; a node with one slot is found among these nearly always.
_TAGS: Final = 200_000


async def check_cluster(deployment: Deployment) -> Found:
    """Ask every node of the settings, at the same time, and return the nodes that they announce."""
    told: dict[str, View | Problem] = {}

    async def ask(place: Address) -> None:
        target = deployment.target_at(*place)
        told[target.label] = await ask_one(Source(target))

    async with trio.open_nursery() as nursery:
        for place in deployment.nodes:
            nursery.start_soon(ask, place)
    labels = [deployment.target_at(*place).label for place in deployment.nodes]
    views = [view for label in labels if isinstance(view := told[label], View)]
    nodes = _configured(labels, told)
    if not views:
        return Found([nodes, skipped(_CHECK, _TRIED, "no node tells")], ())
    known = agreed(views)
    return Found([nodes, _state(known)], tuple(_members(known, deployment)))


def _configured(labels: list[str], told: dict[str, View | Problem]) -> CheckResult:
    tried = f"asking the {len(labels)} nodes of the settings for the cluster"
    failed = {label: answer for label in labels if isinstance(answer := told[label], Problem)}
    if not failed:
        return ok(_NODES, tried, f"{len(labels)} of {len(labels)} answer")
    make = error if len(failed) == len(labels) else warning
    seen = "; ".join(f"{label}: {problem.cause}" for label, problem in failed.items())
    todos = dict.fromkeys(problem.next_step for problem in failed.values())
    return make(
        _NODES, tried, f"{len(labels) - len(failed)} of {len(labels)} answer; {seen}", " ".join(todos)
    )


def _state(known: SlotMap) -> CheckResult:
    count = len(known.primaries)
    seen = f"{count} primaries, {len(known.addresses) - count} replicas"
    look = "`redis-cli --cluster check` with a node's address shows what is missing."
    if known.unserved:
        todo = f"Start the nodes that served them, or have others serve them. {look}"
        return error(_CHECK, _TRIED, f"{seen}; nobody serves the slots {known.unserved}", todo)
    if not known.is_ok:
        todo = f"Wait for a failover to end, or start the nodes that are down. {look}"
        return error(_CHECK, _TRIED, f"{seen}; the nodes say that the cluster does not serve", todo)
    if known.is_disputed:
        todo = f"Repeat once a resharding or failover has ended. {look}"
        return warning(_CHECK, _TRIED, f"{seen}; the nodes do not agree on who serves which slot", todo)
    return ok(_CHECK, _TRIED, f"{seen}; all slots are served")


def _members(known: SlotMap, deployment: Deployment) -> Iterator[Member]:
    tags = _tags(known)
    for id_, address in known.primaries.items():
        yield Member(deployment.target_at(*address), tag=tags.get(id_, ""))
    for id_, address in sorted(known.addresses.items(), key=lambda each: each[1]):
        if id_ not in known.primaries:
            yield Member(deployment.target_at(*address), is_replica=True)


def _tags(known: SlotMap) -> dict[str, str]:
    """Return a hash tag for each primary, whose slot it serves."""
    found: dict[str, str] = {}
    for number in range(_TAGS):
        owner = known.owners[slot_of(tag := f"{{{number}}}")]
        if owner is not None:
            found.setdefault(owner, tag)
        if len(found) == len(known.primaries):
            break
    return found
