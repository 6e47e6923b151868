"""The alert rules, checked and tried by promtool, and against the definitions of the metrics."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contrib.expressions import check_expression
from tests.support.generated import REPOSITORY
from tests.support.servers import missing

RULES = REPOSITORY / "contrib/prometheus/redstreamd.rules.yml"
TRIED = Path(__file__).parent / "redstreamd.rules.test.yml"


@pytest.fixture
def promtool() -> str:
    if (found := shutil.which("promtool")) is None:
        missing("promtool", "run .ci/needs, or install Prometheus")
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize(("command", "file"), [("check", RULES), ("test", TRIED)])
def test_promtool_finds_nothing_wrong(promtool, command, file):
    done = subprocess.run(
        [promtool, command, "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_is_tried():
    tried = set(re.findall(r'alertname="(\w+)"}\', value', TRIED.read_text("utf-8")))
    assert tried == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_metrics_and_labels_that_there_are_and_says_cause_and_remedy(rule):
    check_expression(rule["expr"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "cause", "remedy"}
    # The remedy begins with a command.
    assert re.match(r"(redstreamd|systemctl|journalctl|redis-cli) ", rule["annotations"]["remedy"])
