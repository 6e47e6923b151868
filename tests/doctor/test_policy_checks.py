"""What doctor says about rules and quotas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from redstreamd.doctor import Severity
from redstreamd.doctor.policy_checks import check_policy
from redstreamd.settings import Settings, load


def settings(*words: str) -> Settings:
    return load(assignments=words, environ={}).settings


def test_without_rules_there_is_nothing_to_check() -> None:
    assert check_policy(settings(), ()).severity is Severity.SKIPPED


def test_rules_that_have_an_effect_are_counted() -> None:
    found = check_policy(settings("policy.rules=unix may read on *", "policy.read_only=true"), ())
    assert found.severity is Severity.OK
    assert found.seen == "1 rules and 0 quotas, each with an effect; nothing but reading is granted"


def test_the_command_warns_of_what_has_no_effect(tmp_path: Path) -> None:
    rule = "policy.rules=nobody-of-these may read on jobs:*"
    quota = "policy.quotas=nobody-either have waits=5"
    words = [
        "doctor",
        "--json",
        "--no-service",
        "--set",
        rule,
        "--set",
        quota,
        "--set",
        "redis.path=/nonexistent",
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "redstreamd", *words],
        capture_output=True,
        env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        timeout=30,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr  # Redis cannot be reached
    [found] = [each for each in json.loads(ran.stdout) if each["check"] == "policy"]
    assert found["severity"] == "warning"
    assert "nobody-of-these" in found["seen"]
    assert "nobody-either" in found["seen"]
    assert "policy explain" in found["todo"]
