"""The agent's metrics and alert rules in a real Prometheus server, and its alerts by promtool's own tests."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.cni import PROJECT
from tests.lab.commands import output, run, wait
from tests.lab.modes import SHARED
from tests.lab.node_agent import LONG, PORT, Agents, add, delete, running_agents
from tests.lab.rig import Rig

RULES = PROJECT / "packaging/prometheus/alerts.yaml"
SERVER = 9744
AT = 'instance="n:9743"'

# Alert: the series that make it fire, and some that must not.
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "IbSriovAgentDown": (
        {'up{job="ib-sriov-agent",instance="n:9743"}': "0x60"},
        {'up{job="ib-sriov-agent",instance="n:9743"}': "1x60", 'up{job="other",instance="n:1"}': "0x60"},
    ),
    "IbSriovAgentStuck": (
        {f"ib_sriov_agent_last_pass_timestamp_seconds{{{AT}}}": "0x60"},
        {f"ib_sriov_agent_last_pass_timestamp_seconds{{{AT}}}": "0+60x60"},
    ),
    "IbSriovLeftovers": (
        {f'ib_sriov_attachments{{{AT},network="ib",state="dead"}}': "2x60"},
        {
            f'ib_sriov_attachments{{{AT},network="ib",state="dead"}}': "0 1 1 1 0x56",
            f'ib_sriov_attachments{{{AT},network="ib",state="live"}}': "5x60",
        },
    ),
    "IbSriovHiddenAttachments": (
        {f'ib_sriov_attachments{{{AT},network="ib",state="hidden"}}': "1x60"},
        {f'ib_sriov_attachments{{{AT},network="ib",state="hidden"}}': "0x60"},
    ),
    "IbSriovAttachmentDiffers": (
        {f'ib_sriov_attachments_differing{{{AT},network="ib"}}': "1x60"},
        {f'ib_sriov_attachments_differing{{{AT},network="ib"}}': "0x60"},
    ),
    "IbSriovAddFailures": (
        {f'ib_sriov_call_failures_total{{{AT},command="ADD",code="101"}}': "0+2x60"},
        {
            f'ib_sriov_call_failures_total{{{AT},command="ADD",code="101"}}': "0 3x60",
            f'ib_sriov_call_failures_total{{{AT},command="ADD",code="11"}}': "0+9x60",
        },
    ),
    "IbSriovDelFailures": (
        {f'ib_sriov_call_failures_total{{{AT},command="DEL",code="104"}}': "0+2x60"},
        {f'ib_sriov_call_failures_total{{{AT},command="DEL",code="104"}}': "7x60"},
    ),
    "IbSriovSlowAdd": (
        {
            f'ib_sriov_call_duration_seconds_bucket{{{AT},command="ADD",le="20.0"}}': "0x60",
            f'ib_sriov_call_duration_seconds_bucket{{{AT},command="ADD",le="60.0"}}': "0+1x60",
            f'ib_sriov_call_duration_seconds_bucket{{{AT},command="ADD",le="+Inf"}}': "0+1x60",
        },
        {
            f'ib_sriov_call_duration_seconds_bucket{{{AT},command="ADD",le="1.0"}}': "0+1x60",
            f'ib_sriov_call_duration_seconds_bucket{{{AT},command="ADD",le="+Inf"}}': "0+1x60",
        },
    ),
    "IbSriovNoFreeVf": (
        {
            f'ib_sriov_vfs{{{AT},pf="p",state="free"}}': "0x60",
            f'ib_sriov_vfs{{{AT},pf="p",state="in_use"}}': "8x60",
        },
        {f'ib_sriov_vfs{{{AT},pf="p",state="free"}}': "0x60", f'ib_sriov_vfs{{{AT},pf="q",state="free"}}': "1x60"},
    ),
    "IbSriovUnhealthyVf": (
        {f'ib_sriov_vfs{{{AT},pf="p",state="unhealthy"}}': "1x60"},
        {f'ib_sriov_vfs{{{AT},pf="p",state="unhealthy"}}': "0x60"},
    ),
    "IbSriovPortNotActive": (
        {f'ib_sriov_port_state{{{AT},pf="p",device="p",kind="pf",rdma="mlx5_0"}}': "2x60"},
        {
            f'ib_sriov_port_state{{{AT},pf="p",device="p",kind="pf",rdma="mlx5_0"}}': "4x60",
            f'ib_sriov_port_state{{{AT},pf="p",device="v",kind="vf",rdma="mlx5_1"}}': "1x60",
        },
    ),
    "IbSriovLeasesNearlyExhausted": (
        {
            f'ib_sriov_leases{{{AT},network="ib",range="r",state="free"}}': "9x60",
            f'ib_sriov_leases{{{AT},network="ib",range="r",state="used"}}': "91x60",
        },
        {
            f'ib_sriov_leases{{{AT},network="ib",range="r",state="free"}}': "11x60",
            f'ib_sriov_leases{{{AT},network="ib",range="r",state="used"}}': "89x60",
        },
    ),
    "IbSriovLogUnreadable": (
        {f"ib_sriov_log_readable{{{AT}}}": "0x60"},
        {f"ib_sriov_log_readable{{{AT}}}": "1x60"},
    ),
}


@pytest.fixture(scope="session")
def programs() -> Path:
    """Where prometheus and promtool are."""
    tree = output([str(PROJECT / "tests/tools/deb-client"), "--built", "prometheus"])
    return Path(tree, "tree/usr/bin")


@pytest.fixture
def agents(rig: Rig) -> Iterator[Agents]:
    yield from running_agents()


def test_promtool_takes_the_rules(programs: Path) -> None:
    said = output([str(programs / "promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(RULES)])
    assert f"{len(CASES)} rules found" in said


def test_each_alert_fires_when_it_should_and_not_else(programs: Path, tmp_path: Path) -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    assert alerts == CASES.keys()
    tests = []
    for alert, (bad, good) in CASES.items():
        for series, fires in ((bad, True), (good, False)):
            expression = f'count by (alertname) (ALERTS{{alertname="{alert}",alertstate="firing"}})'
            expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if fires else []
            tests.append(
                {
                    "name": f"{alert} {'fires' if fires else 'is quiet'}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [{"expr": expression, "eval_time": "50m", "exp_samples": expected}],
                }
            )
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = run([str(programs / "promtool"), "test", "rules", str(path)], check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def query(expression: str) -> list[dict[str, Any]]:
    """The server's answer to an instant query; none while it does not answer."""
    url = f"http://127.0.0.1:{SERVER}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []


def number(expression: str) -> float | None:
    found = query(expression)
    return float(found[0]["value"][1]) if found else None


@SHARED
def test_a_server_scrapes_the_agent(rig: Rig, agents: Agents, programs: Path, tmp_path: Path) -> None:
    pod, _ = add(rig, 0)
    gone, _ = add(rig, 1)
    agent = agents("--grace", "3600").ready()
    gone.delete()
    agent.until(1, "ib_sriov_attachments", "ibnet", "dead")
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "ib-sriov-agent", "static_configs": [{"targets": [f"127.0.0.1:{PORT}"]}]},
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(settings))
    options = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/db"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [programs / "prometheus", *options, f"--web.listen-address=127.0.0.1:{SERVER}"], stderr=log, env=os.environ
        )
    try:
        assert wait(lambda: number('up{job="ib-sriov-agent"}') == 1, LONG), (tmp_path / "log").read_text()
        assert wait(lambda: number('ib_sriov_attachments{network="ibnet",state="dead"}') == 1, LONG)
        assert number('ib_sriov_attachments{network="ibnet",state="live"}') == 1
        assert number("sum(ib_sriov_vfs)") == 8
        assert number('ib_sriov_vfs{state="free"}') == 6
        assert number('ib_sriov_leases{state="used"}') == 2
        assert number('ib_sriov_port_state{kind="pf"}') == 4
        # By the rules' own reckoning: a dead attachment, and it will be an alert when it has lasted.
        found = query('ALERTS{alertname="IbSriovLeftovers"}')
        assert wait(lambda: bool(query('ALERTS{alertname="IbSriovLeftovers",alertstate="pending"}')), LONG), found
    finally:
        server.kill()
        server.wait()
    agent.stop()
    delete(rig, {0: pod, 1: gone})
    rig.assert_as_before()
