"""What packaging/ puts on a host and into a cluster: the udev rule, the modules, the script of the test job."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.lab import commands
from tests.lab.cni import PROJECT
from tests.lab.emulated_hca import Hca
from tests.lab.modes import EXCLUSIVE, SHARED
from tests.lab.rig import Rig

PACKAGING = PROJECT / "packaging"
RULE = PACKAGING / "host/udev/70-ib-sriov-vfs.rules"
RULES = Path("/run/udev/rules.d")
UDEVD = "/lib/systemd/systemd-udevd"


def answers() -> bool:
    return commands.run("udevadm control --ping", check=False).returncode == 0


@pytest.fixture
def udevd() -> Iterator[None]:
    """A real udevd that knows our rule."""
    RULES.mkdir(parents=True, exist_ok=True)
    (RULES / RULE.name).write_text(RULE.read_text())
    running = answers()  # its socket stays when it has ended
    commands.run("udevadm control --reload" if running else [UDEVD, "--daemon"])
    try:
        assert commands.wait(answers, 20)
        yield
    finally:
        (RULES / RULE.name).unlink()
        commands.run("udevadm control --reload" if running else "udevadm control --exit; rm -f /run/udev/control")


@pytest.fixture
def hosts() -> Iterator[Path]:
    """/etc/hosts, as it was after the test."""
    path = Path("/etc/hosts")
    before = path.read_text() if path.exists() else ""
    yield path
    path.write_text(before)


def appear(hca: Hca) -> None:
    """Send the event that the kernel sends when the PF's netdev appears."""
    commands.run(["udevadm", "trigger", "--settle", "--action=add", f"/sys/class/net/{hca.pf_netdev}"])


@SHARED
def test_the_rule_makes_vfs_once(rig: Rig, udevd: None) -> None:
    hca = rig.hca
    assert hca.set_numvfs(0) == "OK"
    appear(hca)
    assert hca.wait(lambda: hca.numvfs == 8 and hca.settled(timeout=1), 60)


@SHARED
def test_the_rule_leaves_vfs_alone(rig: Rig, udevd: None) -> None:
    """Pods may be using them."""
    pod = rig.pod()
    rig.add(pod)
    here = os.stat(rig.hca.vf_path(1)).st_ino
    appear(rig.hca)
    assert rig.hca.numvfs == rig.vfs
    assert os.stat(rig.hca.vf_path(1)).st_ino == here
    assert pod.link() is not None
    rig.delete(pod)


@SHARED
def test_the_modules_and_their_option_exist(rig: Rig) -> None:
    lines = (PACKAGING / "host/modules-load.d/ib-sriov.conf").read_text().splitlines()
    modules = [line for line in lines if line and not line.startswith("#")]
    assert modules
    assert [name for name in modules if not Path("/sys/module", name).exists()] == []
    lines = (PACKAGING / "host/modprobe.d/ib-sriov.conf").read_text().splitlines()
    (option,) = [line for line in lines if not line.startswith("#")]
    word, module, setting = option.split()
    assert (word, module) == ("options", "ib_core")
    assert Path("/sys/module", module, "parameters", setting.partition("=")[0]).exists()


@EXCLUSIVE
def test_the_jobs_script_measures(rig: Rig, hosts: Path) -> None:
    """Both pods of the Job, in namespaces instead of containers; net1 carries what eth0 would."""
    things = yaml.safe_load_all((PACKAGING / "kubernetes/jobs/ib-write-bw.yaml").read_text())
    (job,) = [thing for thing in things if thing["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    shell, options, script = container["command"]
    script = script.replace("-D 10", "-D 1")  # emulated: a second says as much
    pods = [rig.pod(), rig.pod()]
    for vf, pod in enumerate(pods):
        rig.add(pod, vf)
    address = pods[0].addresses()[0].partition("/")[0]
    with hosts.open("a") as file:
        file.write(f"\n{address} ib-write-bw-0.ib-write-bw\n")
    running = [
        subprocess.Popen(
            ["ip", "netns", "exec", pod.name, shell, options, script],
            env=os.environ | {"JOB_COMPLETION_INDEX": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, pod in enumerate(pods)
    ]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    assert "BW average[Gb/sec]" in said[1], said[1]
    for vf, pod in enumerate(pods):
        rig.delete(pod, vf)
