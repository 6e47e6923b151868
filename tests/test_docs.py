"""What is generated from the code agrees with it, so that a change of the interface shows in review."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redstreamd.tools.catalog import REGISTRY
from tests.support.generated import GENERATED, REPOSITORY, SNAPSHOTS


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_up_to_date(name: str) -> None:
    assert (REPOSITORY / name).read_text("utf-8") == GENERATED[name](), "run make generate"


def test_there_is_no_snapshot_of_a_tool_that_is_gone() -> None:
    assert {path.stem for path in (REPOSITORY / SNAPSHOTS).iterdir()} == {tool.name for tool in REGISTRY}


def test_bounds_in_the_references_are_written_out() -> None:
    """Nobody reads 2.592e+06 as 30 days."""
    for name in ("docs/tools.md", "docs/settings.md"):
        assert not re.search(r"\de\+\d", (REPOSITORY / name).read_text("utf-8")), name


#: Modules that know a problem without being on the way of a lost connection: what an operator says, AUTH on
#: live connections, refused writes; and what callers hold, which passes a problem on.
BESIDE = {
    *("redisio/target.py", "redisio/reauth.py", "redisio/write_availability.py"),
    *("redisio/client.py", "redisio/delivery.py"),
    *("redisio/topology.py", "redisio/sentinel.py", "redisio/cluster.py", "redisio/cluster_health.py"),
    *("redisio/cluster_views.py", "redisio/cluster_events.py"),
    # What is the matter with a sentinel: no command is sent there.
    *("redisio/sentinel_watch.py", "redisio/sentinel_problems.py", "redisio/sentinel_events.py"),
}


def test_the_way_of_a_lost_connection_is_told_as_it_is_and_has_eleven_modules() -> None:
    text = (REPOSITORY / "docs/design.md").read_text("utf-8")
    section = text.partition("### The way of a lost connection")[2].partition("\n##")[0]
    told = re.findall(r"^\d+\. `([\w/.]+)`", section, re.MULTILINE)
    assert len(told) == len(set(told)) <= 11
    way = {name if "/" in name else f"redisio/{name}" for name in told}
    knows = re.compile(
        r"^from [\w.]+ import .*\b(ConnectionEnded|NotSent|ReplyLost|Problem)\b|^class Problem\b",
        re.MULTILINE,
    )
    package = REPOSITORY / "redstreamd"
    sources = (*package.glob("redisio/*.py"), *package.glob("event_log/*.py"))
    found = {str(path.relative_to(package)) for path in sources if knows.search(one_line_imports(path))}
    assert found - BESIDE <= way
    # The table of replies, which the login and the repeats ask.
    assert way - found == {"redisio/error_replies.py"}


def one_line_imports(path: Path) -> str:
    return re.sub(r"\(\n([^)]*)\)", lambda names: " ".join(names[1].split()), path.read_text("utf-8"))
