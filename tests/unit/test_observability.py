"""What is said of metrics, dashboards, alerts and log lines, held against the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.observability import reference
from ops.observability.events import EVENTS
from ops.observability.reference import HERE, PAGE, ROOT, logged, metrics, page

RULES = HERE / "alerts.yaml"
DASHBOARDS = sorted((HERE / "grafana").glob("*.json"))
OTHERS = frozenset({"node_filesystem_avail_bytes", "node_filesystem_size_bytes"})
"""What others measure and our rules speak of."""
BOUNDED = {
    "zone": "the first 100 by name, or those that a process sequences",
    "projection": "as many as there are in the code",
    "log": "two",
    "route": "templates of paths",
    "status": "what HTTP has",
    "kind": "kinds of requests and refusals",
    "limit": "names of limits",
    "pool": "as many as a process opens",
}
"""Each label, and why it has few values."""


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def names_in(expression: str) -> set[str]:
    """Names of series, without what a histogram appends."""
    named = set(re.findall(r"\b(?:fogbook|node)_[a-z0-9_]+", expression))
    return {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in named}


def queries(dashboard: Path) -> list[str]:
    shown = json.loads(dashboard.read_text())
    return [target["expr"] for panel in shown["panels"] for target in panel["targets"]]


def test_the_page_lists_every_metric_and_every_event_as_the_code_has_them() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "python -m ops.observability.reference"


def test_each_metric_says_what_it_tells_in_a_unit_and_with_labels_of_few_values() -> None:
    for metric in metrics():
        assert len(metric.help.split()) >= 3, metric
        assert not metric.help.endswith("."), metric
        assert set(metric.labels) <= BOUNDED.keys(), metric
        base = metric.name.removesuffix("_total")
        assert not base.endswith(("_ms", "_s", "_us", "_kb", "_mb", "_percent")), metric
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric
        assert (metric.unit == "s") == base.endswith("_seconds"), metric


def test_dashboards_and_alerts_speak_of_metrics_that_there_are() -> None:
    known = {metric.name for metric in metrics()} | OTHERS
    spoken_of = {name for rule in rules() for name in names_in(rule["expr"])}
    for dashboard in DASHBOARDS:
        spoken_of |= {name for expression in queries(dashboard) for name in names_in(expression)}
    assert spoken_of <= known
    assert len(spoken_of) > 20


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    shown = {n for dashboard in DASHBOARDS for expression in queries(dashboard) for n in names_in(expression)}
    assert {metric.name for metric in metrics()} - shown == set()


def test_each_alert_names_a_runbook_that_there_is_and_how_bad_it_is() -> None:
    for rule in rules():
        assert (ROOT / rule["annotations"]["runbook"]).is_file(), rule["alert"]
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    tested = (HERE / "alerts_test.yaml").read_text()
    assert [rule["alert"] for rule in rules() if f'alertname="{rule["alert"]}"}}' not in tested] == []


@pytest.mark.parametrize(
    "command", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]]
)
def test_prometheus_itself_takes_the_rules_and_their_tests(command: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("There is no promtool; `make tools` gets it where it can be had.")
    done = subprocess.run([promtool, *command], cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboards_panels_stand_beside_each_other_and_say_what_they_show(dashboard: Path) -> None:
    shown = json.loads(dashboard.read_text())
    assert shown["uid"] == f"fogbook-{dashboard.stem}"
    taken: Counter[tuple[int, int]] = Counter()
    for panel in shown["panels"]:
        at = panel["gridPos"]
        taken.update((at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"]))
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
    assert max(taken.values()) == 1
    assert max(x for x, _ in taken) < 24


def test_every_line_of_the_log_is_listed_and_every_listed_one_is_written() -> None:
    assert {each.event for each in logged()} == EVENTS.keys()


def test_events_are_names_and_what_they_are_about_stands_beside_them() -> None:
    for each in logged():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", each.event), each
        assert "event" not in each.fields, each  # It is the line's own name.
        if each.level in ("error", "critical"):
            assert each.fields, each


def test_a_call_that_logs_no_listed_event_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "new.py").write_text("log.warning('something_new', zone=zone)\n")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    assert [(each.event, each.level, each.fields) for each in logged()] == [
        ("something_new", "warning", frozenset({"zone"}))
    ]
