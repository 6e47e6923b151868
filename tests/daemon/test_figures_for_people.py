"""What a real daemon tells of itself: in redstream://health, and by records in the log."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from redstreamd.presentation.uris import HEALTH
from tests.support.daemon import Daemon, hasty, read_resource, running_daemon
from tests.support.servers import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.limit(180)

#: With samples after tenths of a second.
HASTY = hasty("redstreamd.daemon.figures_for_people", "SAMPLE_SECONDS")


def wait_for(daemon: Daemon, *texts: str, after: int = 0) -> int:
    """Return where the first of the texts was logged, once each was, at `after` or later."""
    deadline = time.monotonic() + 120
    while missing := [text for text in texts if text not in daemon.log[after:]]:
        assert time.monotonic() < deadline, f"{missing} not in {daemon.log}"
        time.sleep(0.05)
    return daemon.log.index(texts[0], after)


@pytest.fixture
def daemon(redis: Server) -> Iterator[Daemon]:
    """A daemon that tells its figures often."""
    with running_daemon(
        redis,
        program=HASTY,
        REDSTREAMD_TOOLS_PROFILE="operator",
        REDSTREAMD_DAEMON_LOG_LEVEL="debug",
        REDSTREAMD_METRICS_JOURNAL_SECONDS="1.5",
        REDSTREAMD_METRICS_CHECK_SECONDS="0.3",
        REDSTREAMD_METRICS_WARN_PENDING="2",
    ) as running:
        yield running


def test_the_journal_tells_figures_and_each_trouble_of_a_group_once_and_its_end(daemon):
    daemon.call("stream_add", stream="a:b:c", entries=[{"x": 1}] * 3)
    daemon.call("group_create", stream="a:b:c", group="g", start="earliest")
    where = "group g of stream a:b:c"
    wait_for(daemon, f"WARNING  {where} has no consumer, and 3 entries wait for one")
    taken = daemon.call("work_take", stream="a:b:c", group="g", consumer="me", count=3)
    bound = "metrics.warn_pending (given by environment variable REDSTREAMD_METRICS_WARN_PENDING)"
    many = f"WARNING  {where} has 3 pending entries, more than 2 ({bound})"
    wait_for(daemon, f"INFO     {where}: it has a consumer, or nothing waits for one, after", many)
    daemon.call("work_done", lease=taken["structuredContent"]["lease"])
    over = f"INFO     {where}: no more are pending than may be, after"
    wait_for(daemon, over, " calls, 0 failed", "1 streams, ")
    # Once nothing happens any more, that is said to those who debug only.
    done = daemon.log.index(over)
    quiet = wait_for(daemon, "DEBUG    nothing happened in ", after=done)
    assert " calls, " not in daemon.log[quiet:]
    assert daemon.log.count(many) == 1
    assert "0 entries pending, 0 undelivered, 0 dead letters" in daemon.log[quiet:]


def test_the_report_has_limits_the_last_minutes_and_groups_that_need_attention(daemon):
    daemon.call("stream_add", stream="a:b:c", entries=[{"x": 1}])
    daemon.call("group_create", stream="a:b:c", group="g", start="earliest")
    deadline = time.monotonic() + 120
    while True:
        report = read_resource(daemon.path, HEALTH)
        latency = report["history"]["series"].get("p99_seconds", [])
        # They are left out where Redis does not answer soon.
        groups = report.get("attention", {}).get("groups")
        if any(value is not None for value in latency) and groups:
            break
        assert time.monotonic() < deadline, report
    assert report["history"]["sample_seconds"] == 0.3
    assert {"calls_per_second", "errors_per_second", "p50_seconds", "memory_bytes", "loop_lag_seconds"} < set(
        report["history"]["series"]
    )
    assert report["limits"]["connections"] == {"used": 1, "limit": 4096}
    assert report["limits"]["descriptors"]["used"] == pytest.approx(report["process"]["descriptors"], abs=3)
    assert report["attention"] == {
        "groups": [
            {
                "stream": "a:b:c",
                "group": "g",
                "why": ["no_consumer"],
                "consumers": 0,
                "pending": 0,
                "oldest_pending_seconds": None,
                "lag": 1,
                "dead_letters": 0,
            }
        ],
        "streams_left_out": 0,
        "more": 0,
    }


def test_who_may_read_some_streams_sees_their_groups_and_nothing_of_others(redis):
    for stream in ("a:b:c", "x:y:z"):
        redis.cli("XADD", stream, "*", "x", "1")
        redis.cli("XGROUP", "CREATE", stream, "g", "0")
    rules = "policy.rules=unix may read on a:*"
    with running_daemon(redis, "--set", rules) as daemon:
        report = wait_until(lambda: (told := read_resource(daemon.path, HEALTH)).get("attention") and told)
    assert [group["stream"] for group in report["attention"]["groups"]] == ["a:b:c"]
    assert set(report["attention"]) == {"groups", "more"}
    assert not {"limits", "history", "clients", "work"} & set(report)
