"""`redstreamd policy explain`, and what check-config says of rules without effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from redstreamd.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "redstreamd.toml"
    file.write_text(
        """\
[tools]
profile = "operator"
[policy]
rules = [
  "mcp may read publish on jobs:*",
  "ops/uid:* may read publish consume manage on *",
  "mcp may submit consume on inbox:*",
]
"""
    )
    return file


@pytest.mark.parametrize(
    ("principal", "tool", "stream", "status", "said"),
    [
        ("mcp", "stream_add", "jobs:new", 0, "rule 1, 'mcp may read publish on jobs:*'"),
        ("mcp", "stream_add", "other", 1, "no rule for this principal grants it on this stream"),
        ("mcp", "work_take", "jobs:new", 1, "consume: refused"),
        ("nobody", "stream_read", "jobs:new", 1, "none is for this principal"),
        ("ops/uid:0", "stream_manage", "x", 0, "rule 2"),
        ("mcp", "stream_read", "jobs:new:rs:reply:mcp:{jobs:new}", 0, "beside 'jobs:new'"),
        ("mcp", "stream_add", "inbox:new", 0, "rule 3, 'mcp may submit consume on inbox:*'"),
        ("mcp", "stream_add", "inbox:new", 0, "what is added waits in quarantine until it is released"),
        ("mcp", "stream_add", "inbox:new:rs:reply:mcp:{inbox:new}", 0, "waits in quarantine"),
        ("mcp", "quarantine_release", "inbox:new", 1, "manage: refused"),
        ("ops/uid:0", "quarantine_release", "inbox:new", 0, "rule 2"),
        ("mcp", "stream_ad", "x", 64, ""),
        ("mcp", "stream_add", "a\nb", 64, ""),
    ],
)
def test_a_verdict_is_explained(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    principal: str,
    tool: str,
    stream: str,
    status: int,
    said: str,
) -> None:
    assert main(["policy", "explain", principal, tool, stream, "--config", str(config)]) == status
    assert said in capsys.readouterr().out


def test_read_only_and_a_profile_are_explained(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["mcp", "stream_add", "jobs:new", "--config", str(config)]
    assert main(["policy", "explain", *where, "--set", "policy.read_only=true"]) == 1
    assert "read-only" in capsys.readouterr().out
    assert main(["policy", "explain", *where, "--set", "tools.profile=observer"]) == 1
    assert "what is offered is observer" in capsys.readouterr().out
    assert main(["policy", "explain", *where, "--set", "policy.rules="]) == 0
    assert "there are no rules" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rules", "findings"),
    [
        (["mcp may read on a:*"], []),
        (["agents may read on a:*"], ["no principal is known that 'agents' matches"]),
        (["mcp/uid:7 may read on a:*"], []),
        (["mcp may read on a:b", "m* may read publish on a:*"], ["rule 1", "because rule 2 grants"]),
        (["mcp may read on a", "mcp may read on a"], ["rule 1", "because rule 2 grants"]),
        (["mcp may read publish on a b", "mcp may read on *", "mcp may publish on a"], ["rule 3", "rule 1"]),
        (["mcp may read on a:* a:b"], ["'a:b' adds nothing to 'a:*'"]),
        (["mcp may read on a:rs:dead:*"], ["matches no stream: it names a key beside a stream"]),
        (["mcp may read on " + "x" * 600], ["matches no stream: a name has at most 512 bytes"]),
        (["mcp may manage on a"], ["no offered tool needs it"]),
        (["mcp may submit on a", "mcp may publish on a:*"], ["no offered tool releases anything"]),
    ],
)
def test_check_config_finds_rules_without_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: list[str], findings: list[str]
) -> None:
    file = tmp_path / "redstreamd.toml"
    file.write_text(f"[policy]\nrules = {rules}\n")
    assert main(["check-config", "--config", str(file)]) == 0
    said = capsys.readouterr().err
    assert len(said.splitlines()) == (1 if findings else 0), said
    for finding in findings:
        assert finding in said


@pytest.mark.parametrize(
    ("rules", "findings"),
    [
        (["mcp may submit on a:*", "ops/uid:1 may manage on *"], []),
        (["mcp may submit on *", "mcp/uid:1 may manage on a"], []),
        (["mcp may submit on a:*", "ops/uid:1 may manage on b"], ["no rule grants manage on 'a:*'"]),
        (["mcp may submit on a:*", "* may manage on a:b"], ["release what it submits itself"]),
        (["mcp may submit on a:b", "mcp may publish on a:*", "ops/* may manage on *"], ["rule 1", "rule 2"]),
        (["mcp may submit on a:*", "mcp may publish on a:b", "ops/* may manage on *"], []),
    ],
)
def test_check_config_finds_what_is_never_released_or_by_whoever_submitted_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: list[str], findings: list[str]
) -> None:
    file = tmp_path / "redstreamd.toml"
    file.write_text(f'[tools]\nprofile = "operator"\n[policy]\nrules = {rules}\n')
    assert main(["check-config", "--config", str(file), "--set", "daemon.listen=unix:/run/ops.sock"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "no principal is known" not in line]
    assert len(said) == (1 if findings else 0), said
    for finding in findings:
        assert finding in said[0]


def test_check_config_finds_what_read_only_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "redstreamd.toml"
    file.write_text('[policy]\nread_only = true\nrules = ["mcp may read publish on a"]\n')
    assert main(["check-config", "--config", str(file)]) == 0
    assert "publish is never granted, because the policy is read-only" in capsys.readouterr().err


def test_a_mistake_in_a_rule_is_located(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "redstreamd.toml"
    file.write_text('[policy]\nrules = ["mcp may read on a", "mcp may reed on a"]\n')
    assert main(["check-config", "--config", str(file)]) == 78
    said = capsys.readouterr().err
    assert "policy.rules" in said
    assert "word 3 is no permission (item 2 of 2)" in said
    assert str(file) in said


def test_a_tool_that_there_is_not_is_answered_with_the_nearest(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "explain", "mcp", "stream_ad", "x", "--config", str(config)]) == 64
    assert "nearest: stream_add" in capsys.readouterr().err
