"""What the kernel counts for a control group, recorded from both versions of them, and what it amounts to."""

from __future__ import annotations

from pathlib import Path

import pytest

from redstreamd.service.embedded.oom_detection import OomCounters, killed_for_memory, oom_counters

UNIFIED = "low 0\nhigh 118\nmax 2304\noom {oom}\noom_kill {kills}\noom_group_kill 0\n"
#: Before kernel 5.17 there was no line for killed groups, and before 4.19 memory.events had fewer still.
UNIFIED_OLDER = "low 0\nhigh 0\nmax 12\noom {oom}\noom_kill {kills}\n"
LEGACY = "oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"

MEMBERSHIPS = {
    "unified": "0::/system.slice/redstreamd.service\n",
    # A host with both: the memory controller is where it is named.
    "hybrid": "9:name=systemd:/system.slice/redstreamd.service\n5:cpu,cpuacct:/system.slice\n"
    "4:memory:/system.slice/redstreamd.service\n0::/system.slice/redstreamd.service\n",
}


def recorded(kind: str, directory: Path, *, kills: int, oom: int = 0, text: str = "") -> OomCounters | None:
    """Lay a host's files into `directory` and read them."""
    group = directory / {"unified": "", "hybrid": "memory"}[kind] / "system.slice" / "redstreamd.service"
    group.mkdir(parents=True, exist_ok=True)
    name, form = {"unified": ("memory.events", UNIFIED), "hybrid": ("memory.oom_control", LEGACY)}[kind]
    (group / name).write_text((text or form).format(kills=kills, oom=oom))
    membership = directory / "cgroup"
    membership.write_text(MEMBERSHIPS[kind])
    return oom_counters(membership=membership, mount=directory)


@pytest.mark.parametrize("form", [UNIFIED, UNIFIED_OLDER], ids=["newer", "older"])
def test_a_kill_at_the_services_own_limit_names_the_limit(tmp_path: Path, form: str) -> None:
    before = recorded("unified", tmp_path, kills=2, oom=3, text=form)
    after = recorded("unified", tmp_path, kills=3, oom=4, text=form)
    said = killed_for_memory(before, after)
    assert said is not None
    assert "OOM killer" in said
    assert "its limit of memory; raise MemoryMax=" in said
    assert "systemctl edit redstreamd.service" in said


def test_a_kill_because_the_host_has_no_memory_names_the_host(tmp_path: Path) -> None:
    before = recorded("unified", tmp_path, kills=0, oom=0)
    said = killed_for_memory(before, recorded("unified", tmp_path, kills=1, oom=0))
    assert said is not None
    assert "the host ran out of memory" in said
    assert "MemoryMax" not in said


def test_where_the_kernel_does_not_say_which_it_was_both_are_named(tmp_path: Path) -> None:
    before = recorded("hybrid", tmp_path, kills=0)
    said = killed_for_memory(before, recorded("hybrid", tmp_path, kills=1))
    assert said is not None
    assert "its limit of memory or the host ran out of it; raise MemoryMax=" in said


@pytest.mark.parametrize("kind", MEMBERSHIPS)
def test_without_another_kill_nothing_is_said(tmp_path: Path, kind: str) -> None:
    before = recorded(kind, tmp_path, kills=4, oom=7)
    assert before is not None
    assert killed_for_memory(before, recorded(kind, tmp_path, kills=4, oom=9)) is None
    assert killed_for_memory(None, before) is None
    assert killed_for_memory(before, None) is None


@pytest.mark.parametrize("text", ["", "oom_kill_disable 0\nunder_oom 0\n", "oom_kill many\n"])
def test_what_cannot_be_read_is_not_known(tmp_path: Path, text: str) -> None:
    assert recorded("unified", tmp_path, kills=0, text=text or "\n") is None
    assert oom_counters(membership=tmp_path / "absent") is None
    empty = tmp_path / "none"
    empty.write_text("")
    assert oom_counters(membership=empty, mount=tmp_path) is None
