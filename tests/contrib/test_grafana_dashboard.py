"""The dashboard, held against Grafana's own schema, promtool, and the definitions of the metrics.

That it follows from the definitions is tests/test_docs.py's. Grafana's SDK is generated from the schema that
its server reads; no server is started here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from redstreamd.metrics.metric_definitions import METRICS
from tests.contrib.expressions import check_expression, metric_of
from tests.support.generated import REPOSITORY
from tests.support.servers import missing

DASHBOARD: dict[str, Any] = json.loads((REPOSITORY / "contrib/grafana/redstreamd.json").read_text("utf-8"))
#: It has no value to be drawn; the variables ask for its labels.
NOT_DRAWN = {"redstreamd_build_info"}


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def lost(given: Any, kept: Any, where: str = "") -> Iterator[str]:
    """Yield what of a JSON value is not in another one, as paths."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            if name in kept:
                yield from lost(value, kept[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif given != kept:
        yield where


def through_the_schema(dashboard: dict[str, Any]) -> Any:
    """Return what Grafana's schema knows of a dashboard."""
    register_default_plugins()
    return json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))


def test_grafanas_schema_knows_every_member():
    assert list(lost(DASHBOARD, through_the_schema(DASHBOARD))) == []


def test_what_the_schema_does_not_know_would_be_found():
    wrong = json.loads(json.dumps(DASHBOARD))
    wrong["panels"][1]["fieldConfig"]["defaults"]["colour"] = "red"
    wrong["panels"][1]["options"]["graph"] = "area"
    assert list(lost(wrong, through_the_schema(wrong))) == [
        ".panels[1].fieldConfig.defaults.colour",
        ".panels[1].options.graph",
    ]


def test_each_metric_is_drawn_with_labels_that_it_has():
    drawn = set()
    for expression in expressions():
        check_expression(expression)
        drawn |= {metric.name for metric in METRICS if metric.name in expression}
    assert drawn == {metric.name for metric in METRICS} - NOT_DRAWN


def test_promtool_parses_every_expression(tmp_path):
    if (promtool := shutil.which("promtool")) is None:
        missing("promtool", "run .ci/needs, or install Prometheus")
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout + done.stderr


def test_the_variables_ask_for_labels_that_there_are():
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            check_expression(query)
            assert variable["name"] in {"job", "instance", *metric_of("redstreamd_build_info").labels}


def test_panels_lie_beside_each_other_and_have_names_of_their_own():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    for row in [panel["title"] for panel in DASHBOARD["panels"]]:
        assert row
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identifiers) == len(set(identifiers))
