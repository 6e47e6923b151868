"""Checks the sentinels: whether they answer, know the primary, agree on it and can begin a failover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
import msgspec
import trio
from redis.exceptions import RedisError

from redstreamd.doctor.members import Found, Member
from redstreamd.doctor.probe import Probe, error_text, is_permission_error, with_probe
from redstreamd.doctor.report import error, ok, warning
from redstreamd.errors.remedies import setting
from redstreamd.redisio.redis_errors import Problem
from redstreamd.redisio.sentinel_answers import (
    NamedPrimary,
    UnreadableAnswerError,
    candidates,
    known_sentinels,
    named_primary,
)
from redstreamd.redisio.sentinel_problems import refused_question, unreadable_answer
from redstreamd.redisio.target import Deployment

_CHECK: Final = "sentinels"

#: Fewer than three cannot agree on a failover once one of them is lost.
_ENOUGH_SENTINELS: Final = 3


@attrs.frozen
class _Answer:
    """What one sentinel says.

    Attributes:
        primary: Which server it names.
        sentinels: How many there are, as far as it knows.
        replicas: The addresses of those that it can reach; None if it does not tell.
        cannot_fail_over: Why no failover could begin now; empty if one could, or it does not tell.
    """

    primary: NamedPrimary
    sentinels: int
    replicas: tuple[tuple[str, int], ...] | None
    cannot_fail_over: str


async def check_sentinels(deployment: Deployment) -> Found:
    """Ask every sentinel of the settings, at the same time, and return the servers that they watch."""
    answers: dict[str, _Answer | Problem] = {}

    async def ask(host: str, port: int) -> None:
        target = deployment.sentinel_at(host, port)
        answers[target.label] = await with_probe(target, lambda probe: _ask(probe, deployment.primary_name))

    async with trio.open_nursery() as nursery:
        for host, port in deployment.nodes:
            nursery.start_soon(ask, host, port)
    labels = [deployment.sentinel_at(*place).label for place in deployment.nodes]
    told = {label: answer for label in labels if isinstance(answer := answers[label], _Answer)}
    failed = {label: answer for label in labels if isinstance(answer := answers[label], Problem)}
    name = deployment.primary_name
    tried = f"asking {len(labels)} sentinels for {name!r} (SENTINEL MASTER, SENTINELS, REPLICAS, CKQUORUM)"
    silent = [f"{label}: {problem.cause}" for label, problem in failed.items()]
    if not told:
        todos = dict.fromkeys(problem.next_step for problem in failed.values())
        return Found([error(_CHECK, tried, "; ".join(silent), " ".join(todos))], ())
    # The same choice as the daemon's.
    best = candidates([answer.primary for answer in told.values()], total=len(labels), current=None)[
        0
    ].address
    following = next((each for each in told.values() if each.primary.address == best), None)
    replicas = () if following is None else following.replicas or ()
    members = [Member(deployment.target_at(*best))]
    members += [Member(deployment.target_at(*place), is_replica=True) for place in replicas]
    seen = [f"{len(told)} of {len(labels)} answer; the primary is {members[0].target.label}"]
    findings = [
        *((text, failed[label].next_step) for label, text in zip(failed, silent, strict=True)),
        *_disagreement(told, deployment),
        *_weaknesses(list(told.values()), name),
    ]
    if not findings:
        seen.append(f"{max(each.sentinels for each in told.values())} sentinels, {len(replicas)} replicas")
        return Found([ok(_CHECK, tried, "; ".join(seen))], tuple(members))
    seen += [what for what, _ in findings]
    result = warning(_CHECK, tried, "; ".join(seen), " ".join(dict.fromkeys(todo for _, todo in findings)))
    return Found([result], tuple(members))


async def _ask(probe: Probe, name: str) -> _Answer | Problem:
    """Return what a sentinel says of the primary, or why it cannot be used.

    Raises:
        ConnectionEnded: The connection ended.
    """
    questions = ("MASTER", "GET-MASTER-ADDR-BY-NAME", "SENTINELS", "REPLICAS", "CKQUORUM")
    replies = await probe.execute_all([("SENTINEL", question, name) for question in questions])
    master, address, sentinels, replicas, quorum = replies
    for reply in (master, address, sentinels):
        if isinstance(reply, RedisError):
            return await _with_known_names(probe, refused_question(reply, name))
    try:
        return _Answer(
            named_primary(master, address),
            1 + len(known_sentinels(sentinels)),
            None if isinstance(replicas, RedisError) else tuple(_reachable(replicas)),
            error_text(quorum) if isinstance(quorum, RedisError) and not is_permission_error(quorum) else "",
        )
    except UnreadableAnswerError as unreadable:
        return unreadable_answer(str(unreadable))


async def _with_known_names(probe: Probe, problem: Problem) -> Problem:
    """Add the names that the sentinel knows, if it tells them."""
    reply = await probe.execute("SENTINEL", "MASTERS")
    names = [each.get(b"name") for each in reply if isinstance(each, dict)] if isinstance(reply, list) else []
    known = ", ".join(name.decode("utf-8", "backslashreplace") for name in names if isinstance(name, bytes))
    return msgspec.structs.replace(problem, cause=f"{problem.cause}; it knows {known}") if known else problem


def _reachable(replies: Any) -> Iterator[tuple[str, int]]:
    for fields in replies if isinstance(replies, list) else ():
        if isinstance(fields, dict) and b"down" not in fields.get(b"flags", b""):
            yield fields[b"ip"].decode("utf-8", "backslashreplace"), int(fields[b"port"])


def _disagreement(told: dict[str, _Answer], deployment: Deployment) -> Iterator[tuple[str, str]]:
    named: dict[str, list[str]] = {}
    for label, answer in told.items():
        named.setdefault(deployment.target_at(*answer.primary.address).label, []).append(label)
    if len(named) > 1:
        todo = (
            "Wait for the end of a failover. If it stays so, a sentinel is cut off from the others, or "
            "monitors another server: compare their settings."
        )
        who = "; ".join(f"{primary} by {', '.join(labels)}" for primary, labels in named.items())
        yield f"they name different primaries: {who}", todo


def _weaknesses(answers: Sequence[_Answer], name: str) -> Iterator[tuple[str, str]]:
    """Yield what keeps sentinels from a failover, now or once one of them is lost."""
    if down := sorted({flag for each in answers for flag in each.primary.flags if flag.endswith("_down")}):
        yield (
            f"the primary does not answer sentinels ({', '.join(down)})",
            "Look at that server, and at the network between it and the sentinels.",
        )
    if quorum := next((each.cannot_fail_over for each in answers if each.cannot_fail_over), ""):
        yield (
            f"no failover can begin: {quorum}",
            "Start the sentinels that are missing, or correct the quorum.",
        )
    sentinels = max(each.sentinels for each in answers)
    if sentinels < _ENOUGH_SENTINELS:
        todo = (
            "Run three, on hosts of their own: with fewer, none can begin a failover once one is lost; name "
            f"them all: {setting('redis.nodes')}."
        )
        yield f"there are {sentinels} sentinels" if sentinels > 1 else "there is one sentinel", todo
    known = [each.replicas for each in answers if each.replicas is not None]
    if known and not any(known):
        yield (
            "no replica can take the place of the primary",
            f"Add one (REPLICAOF), or look why it does not answer (`SENTINEL REPLICAS {name}`).",
        )
