"""GC and STATUS: what a runtime asks of a network rather than of a container (C16 to C18)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime import Runtime, StandIn, refused, silent
from tests.lab.commands import run as command
from tests.lab.pod import Pod
from tests.lab.rig import LEASES, STATE, Rig, guid_of, leases

VALID = "cni.dev/valid-attachments"
OLDER = "cni.dev/attachments"


def pair(pod: Pod, ifname: str = "net1") -> dict[str, str]:
    return {"containerID": pod.container_id, "ifname": ifname}


def add(rig: Rig, pod: Pod, vf: int, **more: Any) -> Any:
    return rig.add(pod, vf, portTimeout=0, **more)


def collect(rig: Rig, **listed: Any) -> Any:
    """GC with that in its configuration; as runtimes call it, without a container."""
    absent = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"))
    return rig.cni("GC", None, rig.conf(None, **listed), env=absent)


def test_c16_without_a_list_nothing_is_released(rig: Rig) -> None:
    """Absent is not empty; neither is what is no list, nor one with an entry that names nothing."""
    pod = rig.pod()
    add(rig, pod, 0)
    pod.delete()  # even of what is dead
    wrong: list[dict[str, Any]] = [
        {},
        {VALID: None},
        {VALID: {}},
        {VALID: "all"},
        {VALID: [5]},
        {VALID: [{"containerID": pod.container_id}]},
        {VALID: [{"ifname": "net1"}]},
        {VALID: [{"containerID": "", "ifname": "net1"}]},
    ]
    for listed in wrong:
        refused(collect(rig, **listed), 7, VALID, "nothing was released")
        assert leases() == ["10.56.0.2"], listed
        assert len(list((STATE / "attachments").rglob("*.json"))) == 1
    rig.delete(pod)
    rig.assert_as_before()


@pytest.mark.parametrize("key", [VALID, OLDER])
def test_c16_the_dead_are_released(rig: Rig, key: str) -> None:
    """Another network's stay, and so does whoever is listed; VF, record and address of the dead go."""
    dead, other = rig.pod("dead"), rig.pod("other")
    add(rig, dead, 0, guid=guid_of(1), link_state="enable")
    add(rig, other, 1, name="othernet")
    for pod in (dead, other):
        pod.delete()
    silent(collect(rig, **{key: [{"containerID": dead.container_id, "ifname": "eth0"}]}))
    assert leases() == ["10.56.0.2"]
    silent(collect(rig, **{key: []}))
    assert leases() == []
    assert [path.parent.name for path in (STATE / "attachments").rglob("*.json")] == ["othernet"]
    silent(collect(rig, **{key: []}))
    rig.delete(other, 1, name="othernet")
    rig.assert_as_before()


def test_c16_errors_come_at_the_end(rig: Rig, standin: StandIn) -> None:
    """A delegate whose GC fails keeps no VF from its release; the list it gets holds our live ones as well."""
    answer = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24"}]}
    standin.answers("ADD", answer)
    dead, live = rig.pod("dead"), rig.pod("live")
    conf = rig.conf(None, ipam={"type": "standin"}, portTimeout=0)
    for vf, pod in enumerate((dead, live)):
        assert rig.cni("ADD", pod, {**conf, "deviceID": rig.hca.pci(vf)}, env=standin.path).status == 0
    dead.delete()
    standin.answers("GC", {"cniVersion": "1.1.0", "code": 5, "msg": "disk is full"}, 1)
    standin.calls()
    listed = [{"containerID": "5eed", "ifname": "eth0"}]
    refused(rig.cni("GC", None, {**conf, VALID: listed}, env=standin.path), 104, "disk is full")
    assert standin.calls() == ["DEL", "GC"]
    assert standin.environ("DEL")["CNI_CONTAINERID"] == dead.container_id
    assert standin.stdin("GC")[VALID] == [*listed, pair(live)]
    assert live.link() is not None
    silent(rig.cni("DEL", live, {**conf, "deviceID": rig.hca.pci(1)}, env=standin.path))
    rig.assert_as_before()


def test_c17_the_living_are_never_harmed(rig: Rig) -> None:
    """Whichever list a runtime sends: empty, eth0 alone, strangers; CHECK finds everything as it was."""
    pod = rig.pod("live")
    result = add(rig, pod, 0, guid=guid_of(1), link_state="enable")
    lists: list[Any] = [[], [pair(pod, "eth0")], [pair(pod)], [{"containerID": "5eed", "ifname": "net1"}]]
    for listed in lists:
        silent(collect(rig, **{VALID: listed}))
        assert leases() == ["10.56.0.2"]
        again = rig.check(pod, result, guid=guid_of(1), link_state="enable")
        assert again.status == 0, again
    rig.delete(pod, guid=guid_of(1), link_state="enable")
    rig.assert_as_before()


def test_c17_what_the_go_plugin_attached(rig: Rig) -> None:
    """Its record stands for a pod that may be alive: the address stays, whatever the list says."""
    record = STATE / "0ld-net1"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"name": "ibnet", "ContIFNames": "net1", "deviceID": rig.hca.pci(0)}))
    LEASES.mkdir(parents=True, exist_ok=True)
    for address, holder in (("10.56.0.9", "0ld"), ("10.56.0.10", "dead")):
        (LEASES / address).write_text(f"{holder}\r\nnet1")
    silent(collect(rig, **{VALID: []}))
    assert leases() == ["10.56.0.9"]
    record.unlink()
    silent(collect(rig, **{VALID: []}))
    assert leases() == []
    rig.assert_as_before()


def status(rig: Rig, env: Mapping[str, str | None] | None = None, **more: Any) -> Any:
    absent: dict[str, str | None] = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"))
    return rig.cni("STATUS", None, rig.conf(None, **more), env={**absent, **(env or {})})


def test_c18_quiet_when_an_add_could_be_served(rig: Rig, standin: StandIn) -> None:
    silent(status(rig))
    silent(status(rig, deviceID=rig.hca.pci(1), ipam=None))
    silent(status(rig, standin.path, ipam={"type": "standin"}))
    assert standin.calls() == ["STATUS"]
    rig.assert_as_before()


def test_c18_no_pf(rig: Rig, ask: Runtime) -> None:
    """Seen from mounts in which no RDMA device is."""
    text = json.dumps(rig.conf(None))
    line = """unshare -m bash -c 'mount -t tmpfs none /sys/class/infiniband && exec "$@" <<<"$CONF"' in "$@" """
    refused(ask.shell(line, "STATUS", CONF=text), 50, "no InfiniBand PF", "lspci")


def test_c18_no_vfs(rig: Rig) -> None:
    assert rig.hca.set_numvfs(0) == "OK"
    refused(status(rig), 50, rig.hca.pf, "no VFs", "sriov_numvfs")


def test_c18_a_full_node_is_not_broken(rig: Rig) -> None:
    pods = [rig.pod(), rig.pod()]
    for vf, pod in enumerate(pods):
        add(rig, pod, vf)
    silent(status(rig))
    silent(status(rig, deviceID=rig.hca.pci(1)))
    refused(status(rig, deviceID="0009:00:00.1"), 50, "0009:00:00.1")
    for vf, pod in enumerate(pods):
        rig.delete(pod, vf)
    rig.assert_as_before()


def test_c18_no_driver(rig: Rig) -> None:
    for vf in range(2):
        assert rig.hca.unbind(vf) == "OK"
    refused(status(rig), 50, "2 without driver", "drivers_probe")
    assert rig.hca.bind(0) == "OK"
    assert rig.hca.wait(lambda: rig.hca.netdevs(0), 10)
    silent(status(rig))
    assert rig.hca.bind(1) == "OK"
    assert rig.hca.settled()


def test_c18_rdma_mode(rig: Rig) -> None:
    refused(status(rig, rdmaIsolation=True), 50, "exclusive", "netns_mode=0")


def test_c18_ipoib_is_not_loaded(rig: Rig) -> None:
    command(["rmmod", "ib_ipoib"])
    refused(status(rig), 50, "ib_ipoib is not loaded", "modprobe ib_ipoib")
    command(["modprobe", "ib_ipoib"])


def test_c18_no_ranges(rig: Rig) -> None:
    refused(status(rig, ipam={"type": "host-local"}), 50, "no IP ranges")


def test_c18_delegate_is_missing(rig: Rig, tmp_path: Path) -> None:
    refused(status(rig, {"CNI_PATH": str(tmp_path)}, ipam={"type": "absent"}), 50, "absent", str(tmp_path), "install")
    refused(status(rig, {"CNI_PATH": None}, ipam={"type": "absent"}), 50, "absent", "CNI_PATH")
