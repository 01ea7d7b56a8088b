"""The systemd unit as it is shipped, under a real systemd: it starts, heals, comes back, and has the rights it names.

systemd runs as the first process of a PID namespace; what a node has and the guest has not (a journal, the targets of a
boot) is left out by a drop-in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.client_programs import packages
from tests.lab.cni import PROJECT
from tests.lab.commands import names, output, run, wait
from tests.lab.modes import EXCLUSIVE
from tests.lab.node_agent import LONG, Endpoint, add, delete
from tests.lab.rig import Rig

UNIT = "ib-sriov-agent.service"
UNITS = Path("/run/systemd/system")
LOG = Path("/run/agent-unit.log")
DROP_IN = f"""\
[Unit]
DefaultDependencies=no
After=
[Service]
WorkingDirectory={PROJECT}
ExecStart=
ExecStart={sys.executable} -m ib_sriov_cni agent --interval 1 --grace 1 --log-file /var/log/ib-sriov.log
StandardOutput=append:{LOG}
StandardError=append:{LOG}
RestartSec=1
# the project may be in a home directory
ProtectHome=read-only
"""
if PROJECT.is_relative_to("/tmp") or PROJECT.is_relative_to("/var/tmp"):
    DROP_IN += "PrivateTmp=no\n"  # or the unit would not see the project


class Systemd:
    """A manager that runs our unit and nothing else."""

    def __init__(self) -> None:
        packages.cgroups()
        run(["mount", "--make-rshared", "/"])  # the namespaces of later pods have to be seen, as under an init system
        for each in names(UNITS):
            run(["rm", "-rf", str(UNITS / each)])
        (UNITS / f"{UNIT}.d").mkdir(parents=True)
        (UNITS / UNIT).write_text((PROJECT / "packaging/systemd" / UNIT).read_text())
        (UNITS / f"{UNIT}.d/lab.conf").write_text(DROP_IN)
        LOG.unlink(missing_ok=True)
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "slave", "--mount-proc"]
        manager = ["/usr/lib/systemd/systemd", "--system", f"--unit={UNIT}", "--show-status=no"]
        environ = {**os.environ, "container": "lab", "PYTHONDONTWRITEBYTECODE": "1"}
        self.log = Path("/run/systemd.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, *manager], env=environ, stdout=log, stderr=log)

    def said(self) -> str:
        return self.log.read_text() + (LOG.read_text() if LOG.exists() else "")

    def show(self, name: str) -> str:
        """A property of the unit, asked from inside: the manager answers processes it can see."""
        manager = run(["pgrep", "-P", str(self.process.pid)], check=False).stdout.strip()
        inside = ["nsenter", "--target", manager or "1", "--pid", "--mount"]
        done = run([*inside, "systemctl", "show", UNIT, f"--property={name}", "--value"], check=False)
        return done.stdout.strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def systemd(rig: Rig) -> Iterator[Systemd]:
    made = Systemd()
    yield made
    made.end()


@EXCLUSIVE
def test_the_unit_heals_under_systemd(rig: Rig, systemd: Systemd) -> None:
    agent = Endpoint(LOG)
    assert wait(lambda: systemd.show("ActiveState") == "active", LONG), systemd.said()
    assert agent.ask("/readyz")[0] == 200, systemd.said()
    assert "live attachments" in systemd.show("StatusText")
    pod, result = add(rig, 0)
    gone, _ = add(rig, 1)
    gone.delete()
    pod.run(["ip", "addr", "del", result["ips"][0]["address"], "dev", "net1"])
    run(["ip", "link", "set", "dev", "eth100", "vf", "0", "state", "auto"])
    agent.until(1, "ib_sriov_agent_releases_total", "ibnet")
    for kind in ("link-state", "address", "route"):
        agent.until(1, "ib_sriov_agent_repairs_total", kind)
    assert [name for name in agent.metrics() if name[0] == "ib_sriov_agent_errors_total"] == [], systemd.said()
    # It is where it was put: its rights are the unit's, and a killed one comes back.
    first = systemd.show("MainPID")
    pid = int(output(["pgrep", "-f", "ib_sriov_cni agent"]).split()[-1])
    bounding = Path(f"/proc/{pid}/status").read_text().partition("CapBnd:")[2].split()[0]
    assert int(bounding, 16).bit_count() == 3
    os.kill(pid, signal.SIGKILL)
    assert wait(lambda: systemd.show("MainPID") not in ("", "0", first), LONG), systemd.said()
    assert wait(lambda: agent.ask("/readyz")[0] == 200, LONG), systemd.said()
    check = rig.check(pod, result, 0, guid="02:11:22:33:44:55:66:00", link_state="enable")
    assert check.status == 0, check
    systemd.end()
    delete(rig, {0: pod, 1: gone})
    rig.assert_as_before()
