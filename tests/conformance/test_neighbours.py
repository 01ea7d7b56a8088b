"""Multus, the device plugin, ib-kubernetes, old kubelets: what they hand in and expect back (N1 to N5, N8)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conformance.runtime import CONF, MULTUS_ARGS, Runtime, refused, silent
from tests.conformance.schemas import RESULTS
from tests.lab.cni import PROJECT
from tests.lab.commands import run as command
from tests.lab.rig import STATE, Rig, guid_of

IB_KUBERNETES = {"mellanox.infiniband.app": "configured"}


def test_n01_what_multus_injects(rig: Rig, tmp_path: Path) -> None:
    """Both device keys on top, cni-args of any JSON type, CNI_ARGS with the pod; the log and the record name it."""
    pod, log = rig.pod(), tmp_path / "log"
    cni: dict[str, Any] = {"guid": guid_of(7), "labels": {"a": [1, None]}, "count": 3, "on": True, "none": None}
    conf = rig.conf(0, pciBusID=rig.hca.pci(0), args={"cni": cni}, logFile=str(log), portTimeout=0)
    added = rig.cni("ADD", pod, conf, env={"CNI_ARGS": MULTUS_ARGS})
    assert added.status == 0, added
    assert added.out["interfaces"][0]["mac"].endswith(guid_of(7))
    assert "pod=train/worker-0" in log.read_text()
    (record,) = (STATE / "attachments").rglob("*.json")
    assert json.loads(record.read_text())["pod"] == "train/worker-0"
    silent(rig.cni("DEL", pod, conf, env={"CNI_ARGS": MULTUS_ARGS}))
    rig.assert_as_before()


def test_n01_where_the_device_is_named(ask: Runtime) -> None:
    """The capability before the top level, pciBusID where it is alone."""
    netns = {"CNI_NETNS": "/proc/1/ns/net", "CNI_NETNS_OVERRIDE": "1"}
    places: list[dict[str, Any]] = [
        {"runtimeConfig": {"deviceID": "0009:00:00.1"}, "deviceID": "0008:00:00.1", "pciBusID": "0008:00:00.1"},
        {"deviceID": "0009:00:00.1", "pciBusID": "0009:00:00.1"},
        {"pciBusID": "0009:00:00.1"},
    ]
    for place in places:
        refused(ask("ADD", {**CONF, **place}, **netns), 101, "0009:00:00.1")


def test_n02_healing_is_ours(rig: Rig) -> None:
    """Nobody sends DEL, GC or CHECK for a dead pod's net1: the next ADD on its VF does what they would have done."""
    dead, successor = rig.pod("dead"), rig.pod("successor")
    rig.add(dead, guid=guid_of(1), link_state="enable", portTimeout=0)
    dead.delete()
    added = rig.add(successor, portTimeout=0)
    assert not added["interfaces"][0]["mac"].endswith(guid_of(1))
    (record,) = (STATE / "attachments").rglob("*.json")
    assert record.name == f"{successor.container_id}:net1.json"
    assert successor.addresses() == ["10.56.0.3/24"]
    rig.delete(successor)
    rig.assert_as_before()


def test_n03_under_a_chroot(rig: Rig, ask: Runtime, tmp_path: Path) -> None:
    """As thick Multus calls: the host's root bound elsewhere, an environment with nothing but CNI's variables."""
    root = tmp_path / "hostroot"
    root.mkdir()
    command(["mount", "--rbind", "/", str(root)])
    command(["mount", "--make-rslave", str(root)])
    try:
        pod = rig.pod()
        for name in ("ADD", "CHECK", "DEL"):
            conf = rig.conf(portTimeout=0)
            if name == "CHECK":
                conf["prevResult"] = json.loads((tmp_path / "result").read_text())
            (tmp_path / "conf").write_text(json.dumps(conf))
            words = (
                f"CNI_COMMAND={name} CNI_CONTAINERID={pod.container_id} CNI_NETNS={pod.netns} CNI_IFNAME=net1"
                f" CNI_PATH=/opt/cni/bin PYTHONPATH={PROJECT}"
            )
            line = f'cd /; exec chroot {root} /usr/bin/env -i {words} "$@" <{tmp_path}/conf'
            done = ask.shell(line, name)
            assert done.status == 0, done
            if name == "ADD":
                assert done.out["interfaces"][0]["sandbox"] == pod.netns
                (tmp_path / "result").write_text(done.stdout)
                assert pod.addresses() == ["10.56.0.2/24"]
        pod.delete()
    finally:
        command(["umount", "-R", "-l", str(root)])
    rig.assert_as_before()


def test_n04_device_info_is_refreshed(rig: Rig, tmp_path: Path) -> None:
    """The file names the RDMA device as something renamed it later: it is corrected, and what else is there stays."""
    file = tmp_path / "devinfo/net1.json"
    file.parent.mkdir()
    had, stale = str(rig.hca.rdma(0)), "mlx5_77"
    pci = {"pci-address": rig.hca.pci(0), "rdma-device": stale, "vhost-net": "/dev/vhost"}
    file.write_text(json.dumps({"type": "pci", "version": "1.1.0", "pci": pci, "vendor": {"a": [1]}}))
    rig.hca.knob("renumber", 1)
    pod = rig.pod()
    more: dict[str, Any] = {"guid": guid_of(1), "runtimeConfig": {"CNIDeviceInfoFile": str(file)}, "portTimeout": 0}
    rig.add(pod, **more)
    assert rig.hca.rdma_anywhere(0) == had, "the rebind gave it another name, ADD its own again"
    pci |= {"rdma-device": had, "pf-pci-address": rig.hca.pf}
    assert json.loads(file.read_text()) == {"type": "pci", "version": "1.1.0", "pci": pci, "vendor": {"a": [1]}}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    rig.delete(pod, **more)


def test_n04_device_info_is_made(rig: Rig, tmp_path: Path) -> None:
    """Its folder too, in the place of the specification alone. Elsewhere, or if the author of a network has named
    another file, ADD fails, and both host and file are as before.
    """
    pod = rig.pod()
    file = Path(f"/var/run/k8s.cni.cncf.io/devinfo/cni/made/{pod.container_id}.json")
    info: dict[str, Any] = {"runtimeConfig": {"CNIDeviceInfoFile": str(file)}, "portTimeout": 0}
    rig.add(pod, **info)
    assert json.loads(file.read_text()) == {
        "type": "pci",
        "version": "1.1.0",
        "pci": {
            "pci-address": rig.hca.pci(0),
            "pf-pci-address": rig.hca.pf,
            "rdma-device": rig.hca.rdma_anywhere(0),
        },
    }
    rig.delete(pod, **info)
    rig.assert_as_before()
    file.unlink()
    for path in ("/proc/nowhere/it.json", str(tmp_path / "it.json")):
        elsewhere: dict[str, Any] = {"runtimeConfig": {"CNIDeviceInfoFile": path}, "portTimeout": 0}
        refused(rig.call("ADD", pod, **elsewhere), 106, path)
        rig.assert_as_before()
    assert list(tmp_path.iterdir()) == []
    other, info = tmp_path / "config.json", {"CNIDeviceInfoFile": str(tmp_path / "config.json")}
    for content in ('{"cniVersion": "1.0.0", "type": "bridge"}', '{"type": "pci", "pci": "0001:00:00.1"}', "x"):
        other.write_text(content)
        refused(rig.call("ADD", pod, runtimeConfig=info, portTimeout=0), 106, str(other))
        assert other.read_text() == content
        rig.assert_as_before()


def test_n05_ib_kubernetes(rig: Rig) -> None:
    """Waited for, by code 11, until GUID and mark are both there, as capability or as cni-args."""
    pod = rig.pod()
    waited = ("ibKubernetesEnabled", "ib-kubernetes has not given")
    incomplete: list[dict[str, Any]] = [
        {},
        {"args": {"cni": IB_KUBERNETES}},
        {"runtimeConfig": {"infinibandGUID": guid_of(1)}},
        {"args": {"cni": {"guid": guid_of(1), "mellanox.infiniband.app": True}}},
    ]
    for more in incomplete:
        refused(rig.call("ADD", pod, ibKubernetesEnabled=True, **more), 11, *waited)
    rig.assert_as_before()
    complete: dict[str, Any] = {
        "runtimeConfig": {"infinibandGUID": guid_of(1)},
        "args": {"cni": {**IB_KUBERNETES, "guid": guid_of(2), "pkey": "0xffff"}},
    }
    added = rig.add(pod, ibKubernetesEnabled=True, portTimeout=0, **complete)
    assert added["interfaces"][0]["mac"].endswith(guid_of(1))
    rig.delete(pod, ibKubernetesEnabled=True, **complete)
    rig.assert_as_before()


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1"])
def test_n08_old_kubelets(rig: Rig, version: str) -> None:
    """ADD, then DEL as after a reboot, in the versions of kubelet 1.15 with Multus 3."""
    pod = rig.pod()
    conf = rig.conf(cniVersion=version, portTimeout=0)
    environ = {"CNI_ARGS": MULTUS_ARGS}
    added = rig.cni("ADD", pod, conf, env=environ)
    assert added.status == 0, added
    jsonschema.validate(added.out, RESULTS[version])
    address = added.out["ip4"]["ip"] if version == "0.2.0" else added.out["ips"][0]["address"]
    assert pod.addresses() == [address] == ["10.56.0.2/24"]
    refused(rig.cni("CHECK", pod, {**conf, "prevResult": added.out}, env=environ), 1, version=version)
    silent(rig.cni("DEL", pod, conf, env={**environ, "CNI_NETNS": ""}))
    silent(rig.cni("DEL", pod, conf, env={**environ, "CNI_NETNS": ""}))
    rig.assert_as_before()
