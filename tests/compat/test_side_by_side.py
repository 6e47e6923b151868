"""The release before beside the present version, on one Redis: each goes on with what the other does.

As during an upgrade of several hosts, one after the other. Both have the key of leases of the first host, the
old one in its state directory, since it has no setting for it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from tests.compat.old_release import RELEASES, old_package
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.servers import Server

STREAM, GROUP = "sides:work:stream", "workers"
KEY = bytes(range(32))


@attrs.frozen
class Sides:
    """The two daemons.

    Attributes:
        old: Of the release before.
        new: Of the present version.
    """

    old: Daemon
    new: Daemon

    def turns(self, times: int) -> Iterator[tuple[Daemon, Daemon]]:
        """Yield each as the first, so many times."""
        for _ in range(times):
            yield self.old, self.new
            yield self.new, self.old


@pytest.fixture(scope="module", params=RELEASES)
def sides(
    request: pytest.FixtureRequest, redis_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sides]:
    """Run both."""
    redis_server.flush()
    key_file = tmp_path_factory.mktemp("key") / "lease.key"
    key_file.write_bytes(KEY)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(home())
        state = place / "state" / "redstreamd"
        state.mkdir(parents=True, mode=0o700)
        (state / "lease.key").write_bytes(KEY)
        package = stack.enter_context(old_package(request.param))
        old = stack.enter_context(package.running(redis_server, place))
        new = stack.enter_context(
            running_daemon(
                redis_server,
                REDSTREAMD_DAEMON_LEASE_KEY_FILE=str(key_file),
                REDSTREAMD_RECORDS_PLAIN_HASHES="true",
            )
        )
        yield Sides(old, new)


def call(daemon: Daemon, tool: str, **arguments: Any) -> dict[str, Any]:
    """Make a call that succeeds."""
    result = daemon.call(tool, **arguments)
    assert not result["isError"], result["content"]
    content: dict[str, Any] = result["structuredContent"]
    return content


@pytest.mark.limit(90)
def test_both_share_the_work_of_a_group(sides: Sides) -> None:
    place = {"stream": STREAM, "group": GROUP, "count": 2, "lease_seconds": 600}
    finished: Counter[str] = Counter()
    added: list[str] = []
    for number, (one, other) in enumerate(sides.turns(4)):
        entries = {"stream": STREAM, "entries": [{"n": number}] * 3, "idempotency_key": f"add {number}"}
        ids = call(one, "stream_add", **entries)["ids"]
        # A repetition at the other one adds nothing.
        assert call(other, "stream_add", **entries)["ids"] == ids
        added += ids
        # Taken at one, extended and settled at the other.
        taken = call(one, "work_take", **place, consumer=f"c{number}")
        assert len(taken["entries"]) == 2
        call(other, "work_extend", lease=taken["lease"], lease_seconds=900)
        finished.update(call(other, "work_done", lease=taken["lease"])["done"])
        # While one holds an entry, the other does not give it to anybody.
        held = call(one, "work_take", **place, consumer="holder")
        rest = call(other, "work_take", **place, consumer="other")
        mine, others = ({entry["id"] for entry in each.get("entries", [])} for each in (held, rest))
        assert mine.isdisjoint(others)
        for each in (held, rest):
            if "lease" in each:
                call(other, "work_fail", lease=each["lease"], action="retry", delay_seconds=0)
    while "lease" in (taken := call(sides.new, "work_take", **place, consumer="last")):
        finished.update(call(sides.old, "work_done", lease=taken["lease"])["done"])
    assert finished == Counter(added)


@pytest.mark.limit(60)
def test_a_question_of_one_is_answered_by_the_other(sides: Sides) -> None:
    for one, other in sides.turns(1):
        question = {"stream": "sides:ask:stream", "entry": {"question": 1}}
        asked = call(one, "request_reply", **question, timeout_seconds=0)
        taken = call(other, "work_take", stream="sides:ask:stream", group=GROUP, consumer="w")
        call(other, "work_done", lease=taken["lease"], reply={"answer": 42})
        late = asked["next_call"]
        (reply,) = call(one, late["tool"], **late["arguments"])["entries"]
        assert reply["fields"] == {"answer": 42}
