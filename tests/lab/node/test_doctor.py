"""`ib-sriov doctor`: quiet on a healthy node; it finds each fault, and what it says to do helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni import __version__
from tests.lab.cni import PROJECT
from tests.lab.commands import has_carrier, mounted, run, wait
from tests.lab.emulated_hca import NO_GUID
from tests.lab.modes import SHARED
from tests.lab.rig import LEASES, STATE, Rig, guid_of

CONFIGS = Path("/etc/cni/net.d")
PLUGINS = Path("/run/doctor/bin")
SECONDS = "60"  # an emulated machine that has other work too


class Node:
    """The rig's host with the plugin installed and configured, and the doctor called upon it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.hca = rig.hca
        self.configure()
        PLUGINS.mkdir(parents=True, exist_ok=True)
        program = PLUGINS / "ib-sriov"
        # Starting Python once more for each report is what takes longest here.
        program.write_text(f"#!/bin/sh\necho ib-sriov {__version__}\n")
        program.chmod(0o755)

    def configure(self, **more: Any) -> None:
        CONFIGS.mkdir(parents=True, exist_ok=True)
        (CONFIGS / "10-ib.conf").write_text(json.dumps(self.rig.conf(None, **more)))

    def call(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [*before, *self.rig.cni.command, *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=300)
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    def doctor(self, *, before: tuple[str, ...] = ()) -> dict[str, Any]:
        """The report; `status` is the exit status."""
        done = self.call("doctor", "-o", "json", "--timeout", SECONDS, "--cni-path", str(PLUGINS), before=before)
        document: dict[str, Any] = json.loads(done.stdout)
        return {**document, "status": done.returncode}

    def find(self, check: str, status: str, report: dict[str, Any] | None = None) -> dict[str, str]:
        """The one finding of that check and status; a FAIL is the exit status."""
        report = report or self.doctor()
        found = [each for each in report["findings"] if (each["check"], each["status"]) == (check, status)]
        assert len(found) == 1, [each for each in report["findings"] if each["status"] != "OK"]
        assert report["status"] == 1 or status != "FAIL", report
        finding: dict[str, str] = found[0]
        return finding


def complaints(report: dict[str, Any]) -> list[dict[str, str]]:
    return [each for each in report["findings"] if each["status"] in {"FAIL", "WARN", "SKIP"}]


@pytest.fixture
def node(rig: Rig) -> Iterator[Node]:
    assert wait(lambda: has_carrier(rig.hca.pf_netdev), 30)
    yield Node(rig)
    shutil.rmtree(CONFIGS, ignore_errors=True)
    shutil.rmtree(PLUGINS.parent, ignore_errors=True)


def test_a_healthy_node_is_quiet(node: Node) -> None:
    """With a pod that lives; nothing is changed by looking."""
    pod = node.rig.pod()
    result = node.rig.add(pod, guid=guid_of(1))
    report = node.doctor()
    assert complaints(report) == []
    assert report["status"] == 0
    said = {each["check"]: each["text"] for each in report["findings"]}
    assert "answers" in said["sm"]
    assert "1 attachment, none of a dead pod" in said["leftovers"]
    assert "7 of 8 VFs are free" in said["vf-free"]
    assert node.rig.mode in said["rdma-mode"]
    assert node.rig.check(pod, result, guid=guid_of(1)).status == 0
    node.rig.delete(pod, guid=guid_of(1))
    node.rig.assert_as_before()


@SHARED
def test_without_root_it_sees_less_and_says_so(node: Node) -> None:
    pod = node.rig.pod()
    node.rig.add(pod)
    report = node.doctor(before=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    statuses = {each["check"]: each["status"] for each in report["findings"]}
    assert [each for each in report["findings"] if each["status"] in {"FAIL", "WARN"}] == []
    assert report["status"] == 5
    assert {statuses[check] for check in ("leftovers", "records", "verbs", "sm")} == {"SKIP"}
    seen = {check: statuses[check] for check in ("hca", "vfs", "vf-driver", "pf-port", "vf-link")}
    assert set(seen.values()) == {"OK"}, report
    node.rig.delete(pod)
    node.rig.assert_as_before()


# ---- twelve faults


@pytest.fixture
def give_guid(rig: Rig) -> Iterator[Callable[[int, str], None]]:
    """A function that gives a VF another GUID; it has its own again after the test."""
    had: dict[int, str] = {}

    def give(vf: int, guid: str) -> None:
        had.setdefault(vf, rig.hca.port_guid(vf))
        rig.hca.sets_guid(vf, guid)
        rig.hca.rebind(vf)
        assert rig.hca.settled()

    yield give
    for vf, guid in had.items():
        give(vf, guid)


@SHARED
def test_zero_guids(node: Node, give_guid: Callable[[int, str], None]) -> None:
    """Not a fault for this plugin, which derives one; the doctor mentions it."""
    give_guid(2, NO_GUID)
    found = node.find("vf-guid-zero", "NOTE")
    assert node.hca.pci(2) in found["text"]
    assert "docs/guids.md" in found["hint"]


@SHARED
def test_doubled_guids(node: Node, give_guid: Callable[[int, str], None]) -> None:
    give_guid(3, node.hca.port_guid(2))
    found = node.find("vf-guid-double", "FAIL")
    assert node.hca.port_guid(2) in found["text"]
    assert node.hca.pci(2) in found["text"]
    assert node.hca.pci(3) in found["text"]
    assert "rebind that VF" in found["hint"]


@SHARED
def test_wrong_rdma_mode(node: Node) -> None:
    node.configure(rdmaIsolation=True)
    found = node.find("rdma-mode", "FAIL")
    assert "shared" in found["text"]
    assert "netns_mode=0" in found["hint"]


@SHARED
def test_subnet_manager_down(node: Node) -> None:
    node.hca.knob("sm_down", 1)
    found = node.find("sm", "FAIL")
    assert "does not answer" in found["text"]
    assert "opensm" in found["hint"]


@SHARED
def test_vf_unbound(node: Node) -> None:
    node.hca.unbind(4)
    found = node.find("vf-driver", "FAIL")
    assert node.hca.pci(4) in found["text"]
    commands, _, otherwise = found["hint"].rpartition("; ")
    assert otherwise == "if that fails, see dmesg"
    run(commands)
    assert node.hca.driver(4)
    assert node.hca.settled()


@SHARED
def test_leftovers_of_a_dead_pod(node: Node) -> None:
    pod = node.rig.pod()
    node.rig.add(pod, 5)
    pod.delete()
    assert wait(lambda: node.hca.settled(timeout=1), 30)
    found = node.find("leftovers", "WARN")
    assert node.hca.pci(5) in found["text"]
    words = found["hint"].split()
    assert words[:2] == ["ib-sriov", "gc"]
    gc = node.call(*words[1:2])
    assert gc.returncode == 0, gc.stdout + gc.stderr
    node.rig.assert_as_before()


@SHARED
def test_broken_configuration(node: Node) -> None:
    node.configure(mtu=7, link_state="on")
    found = node.find("config", "FAIL")
    assert "mtu must be between 68 and 65520 (got 7)" in found["text"]
    assert "link_state" in found["text"]
    assert "docs/configuration.md" in found["hint"]
    (CONFIGS / "10-ib.conf").write_text('{"type": "ib-sriov", "name": "ibnet"')
    assert "not JSON" in node.find("config", "FAIL")["text"]


@SHARED
def test_exhausted_addresses(node: Node) -> None:
    node.configure(ipam={"type": "host-local", "ranges": [[{"subnet": "10.56.0.0/29"}]]})
    LEASES.mkdir(parents=True, exist_ok=True)
    for number in range(2, 7):
        (LEASES / f"10.56.0.{number}").write_text(f"container{number}\r\nnet1")
    report = node.doctor()
    found = node.find("addresses", "FAIL", report)
    assert "5 of 5 addresses" in found["text"]
    assert "ib-sriov gc" in found["hint"]
    leases = node.find("leases", "WARN", report)
    assert "10.56.0.2" in leases["text"]
    run(["rm", leases["hint"].rpartition("rm ")[2]])
    assert not (LEASES / "10.56.0.2").exists()


@SHARED
def test_state_directory_unwritable(node: Node) -> None:
    with mounted(STATE, "ro,mode=0700"):
        found = node.find("state-dir", "FAIL")
    assert str(STATE) in found["text"]
    assert "read-only" in found["text"]
    assert "remount,rw" in found["hint"]


@SHARED
def test_pf_down(node: Node) -> None:
    name = node.hca.pf_netdev
    run(["ip", "link", "set", name, "down"])
    found = node.find("pf-up", "WARN")
    assert name in found["text"]
    run(found["hint"].partition(" (")[0])
    assert wait(lambda: has_carrier(name), 30)


@SHARED
def test_no_vfs(node: Node) -> None:
    assert node.hca.set_numvfs(0) == "OK"
    found = node.find("vfs", "FAIL")
    assert "has no VFs" in found["text"]
    run(found["hint"].partition(" (")[0])
    assert node.hca.numvfs == 8
    assert node.hca.settled()


@SHARED
def test_ib_ipoib_missing(node: Node) -> None:
    run(["rmmod", "ib_ipoib"])
    found = node.find("module-ipoib", "FAIL")
    run(found["hint"].partition(";")[0])
    assert node.hca.settled()
    assert os.path.isdir("/sys/module/ib_ipoib")
