"""What is shipped with the agent matches it: the metrics page, alert rules, dashboard and systemd unit."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ib_sriov_cni.agent.api_server import ApiServer
from ib_sriov_cni.agent.kube import Events
from ib_sriov_cni.agent.metrics import TABLE, Metrics
from ib_sriov_cni.cli.agent import command

ROOT = Path(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
PAGE = (ROOT / "docs/agent.md").read_text()
ALERTS = yaml.safe_load((ROOT / "packaging/prometheus/alerts.yaml").read_text())
DASHBOARD = json.loads((ROOT / "packaging/grafana/dashboard.json").read_text())
UNIT = (ROOT / "packaging/systemd/ib-sriov-agent.service").read_text()
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
NAME = re.compile(r"\bib_sriov_\w+")
SELECTOR = re.compile(r"\b(ib_sriov_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(?:=|!=|=~|!~)"')
# The labels that Prometheus adds to each sample.
TARGET = {"instance", "job"}


def queries(node: Any) -> Iterator[str]:
    """Return every query of a dashboard."""
    if isinstance(node, dict):
        for key, item in node.items():
            if key in {"expr", "definition"}:
                yield item
            else:
                yield from queries(item)
    elif isinstance(node, list):
        for item in node:
            yield from queries(item)


EXPRESSIONS = [*queries(DASHBOARD), *[rule["expr"] for rule in RULES]]


def metric_of(sample: str) -> str:
    """Return the metric that a sample's name belongs to."""
    base = re.sub(r"_(bucket|count|sum)$", "", sample)
    return base if TABLE.get(base, TABLE["ib_sriov_vfs"]).kind == "histogram" else sample


def test_the_table_is_what_the_registry_has() -> None:
    metrics = Metrics()
    metrics.publish({name: [] for name in TABLE})
    found = {}
    for family in metrics.registry.collect():
        if family.name.startswith("ib_sriov_"):
            found[family.name + ("_total" if family.type == "counter" else "")] = (family.type, family.documentation)
    kinds = {"fact": "gauge"}
    assert found == {name: (kinds.get(metric.kind, metric.kind), metric.text) for name, metric in TABLE.items()}


def test_the_page_has_the_table() -> None:
    rows = [f"| `{name}` | {' '.join(metric.labels)} | {metric.text} |" for name, metric in TABLE.items()]
    told = [line for line in PAGE.splitlines() if line.startswith("| `ib_sriov_")]
    assert told == rows, "\n".join(["docs/agent.md must have:", *rows])


def test_the_page_has_every_option() -> None:
    options = [option for option in command.params if isinstance(option, click.Option)]
    names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    table = "".join([line for line in PAGE.splitlines() if line.startswith("| `--")])
    assert {f"--{name}" for name in re.findall(r"--([a-z-]+)", table)} == names


def test_the_page_has_every_event() -> None:
    source = (ROOT / "ib_sriov_cni/agent/reconcile.py").read_text()
    reasons = set(re.findall(r'"(InfiniBand\w+)"', source))
    assert len(reasons) == 5
    assert set(re.findall(r"`(InfiniBand\w+)`", PAGE)) == reasons
    assert Events(ApiServer({}), on_failure=print, on_result=print).enabled is False


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_that_is_asked_for_exists(expression: str) -> None:
    names = set(NAME.findall(expression)) - {"ib_sriov_agent_unit"}
    assert names or "up{" in expression
    assert {metric_of(name) for name in names} <= TABLE.keys()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_that_is_asked_for_exists(expression: str) -> None:
    for name, matchers in SELECTOR.findall(expression):
        labels = set(TABLE[metric_of(name)].labels) | TARGET
        assert set(MATCHER.findall(matchers)) <= labels, name
    known = {label for name in NAME.findall(expression) for label in TABLE[metric_of(name)].labels} | TARGET | {"le"}
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(group.replace(" ", "").split(",")) <= known


@pytest.mark.parametrize("name", list(TABLE))
def test_the_dashboard_or_an_alert_uses_it(name: str) -> None:
    """Nearly every metric must be used: one that nobody looks at is not worth having."""
    unused = {"ib_sriov_damaged_records", "ib_sriov_agent_http_refusals_total"}
    assert name in unused or any(name in {metric_of(n) for n in NAME.findall(text)} for text in EXPRESSIONS)


def test_alerts_have_what_a_person_needs() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 10
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            by = re.findall(r"\bby \(([^)]*)\)", rule["expr"])
            labels = {each.strip() for group in by for each in group.split(",")}
            direct = {each for name in NAME.findall(rule["expr"]) for each in TABLE[metric_of(name)].labels}
            assert label in (labels or direct | TARGET), (rule["alert"], label)


def test_panels_lie_beside_each_other() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_units_command_is_one() -> None:
    line = re.search(r"^ExecStart=\S+/ib-sriov agent (.*)$", UNIT, re.MULTILINE)
    assert line
    context = command.make_context("agent", line[1].split(), resilient_parsing=False)
    assert context.params["log_file"] == "/var/log/ib-sriov.log"


def test_every_capability_of_the_unit_has_its_reason() -> None:
    granted = re.search(r"^CapabilityBoundingSet=(.*)$", UNIT, re.MULTILINE)
    assert granted
    reasons = re.findall(r"^#   (CAP_\w+)  +\S.*$", UNIT, re.MULTILINE)
    assert granted[1].split() == reasons


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """systemd-analyze verifies the unit; without systemd, only the text is checked."""
    unit = tmp_path / "ib-sriov-agent.service"
    unit.write_text(UNIT.replace("/usr/local/bin/ib-sriov", "/bin/true"))
    try:
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        assert "Type=notify" in UNIT
        return
    assert (done.returncode, done.stderr) == (0, "")
