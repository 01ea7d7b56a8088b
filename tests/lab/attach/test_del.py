"""DEL, whatever has become of pod, namespace, record or configuration: the VF is returned as it was (C13, C14)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import run, wait
from tests.lab.modes import SHARED
from tests.lab.rig import LEASES, STATE, Rig, device_held_open, guid_of, leases

IDENTITY: dict[str, Any] = {"guid": guid_of(1), "link_state": "enable", "mtu": 2000}


def test_del_twice(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, **IDENTITY)
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()


def test_del_of_what_never_was(rig: Rig) -> None:
    rig.delete(rig.pod(), **IDENTITY)
    rig.assert_as_before()


def test_namespace_is_gone(rig: Rig) -> None:
    """Dead for a while, dying at this moment, not given (after a reboot), or an ordinary file in its place."""
    endings: list[tuple[str, dict[str, str | None]]] = [
        ("dead", {}),
        ("dying", {}),
        ("not given", {"CNI_NETNS": None}),
        ("empty", {"CNI_NETNS": ""}),
        ("a file", {}),
    ]
    pods = [rig.pod() for _ in endings]
    for vf, pod in enumerate(pods):
        rig.add(pod, vf, **{**IDENTITY, "guid": guid_of(vf)})
    for vf, ((ending, env), pod) in enumerate(zip(endings, pods, strict=True)):
        if ending != "not given":
            pod.delete()
        if ending == "dead":
            assert wait(lambda: rig.hca.netdevs(0))
        if ending == "a file":
            Path(pod.netns).touch()
        gone = rig.cni("DEL", pod, rig.conf(vf, **{**IDENTITY, "guid": guid_of(vf)}), env=env)
        assert (gone.status, gone.stdout) == (0, ""), (ending, gone)
        if ending == "a file":
            Path(pod.netns).unlink()
    rig.assert_as_before()


def test_what_pods_do(rig: Rig) -> None:
    """Renamed, taken down, more addresses and altnames, another MTU; a dummy of the VF's old name."""
    pod = rig.pod()
    rig.add(pod, **IDENTITY)
    pod.run(
        "ip link set net1 down && ip link set net1 name mine && ip link set mine mtu 1400 &&"
        " ip addr add 10.1.1.1/24 dev mine && ip link property add dev mine altname other &&"
        " ip link add net1 type dummy"
    )
    rig.delete(pod, **IDENTITY)
    assert [link["ifname"] for link in pod.links()] == ["lo", "net1"]
    rig.assert_as_before()


def test_altname_that_the_host_has_already(rig: Rig) -> None:
    """The move to the host would fail as a whole: the pod's altname is the name of an interface there."""
    pod = rig.pod()
    rig.add(pod)
    neighbour = rig.hca.netdev(1)
    pod.run(f"ip link property add dev net1 altname {neighbour}")
    rig.delete(pod)
    rig.assert_as_before()


def test_old_name_is_taken_on_the_host(rig: Rig) -> None:
    """Another interface has the VF's old name: DEL succeeds, and the VF has another name on the host."""
    pod = rig.pod()
    name = rig.hca.netdev(0)
    rig.add(pod, **IDENTITY)
    run(f"ip link add {name} type dummy")
    rig.delete(pod, **IDENTITY)
    assert rig.hca.netdev(0) != name
    assert (rig.hca.port_guid(0), rig.hca.link_state(0)) == (
        rig.before.facts[f"VF 0 ({rig.hca.pci(0)}) port GUID"],
        "auto",
    )
    run(f"ip link del {name}")
    run(f"ip link set {rig.hca.netdev(0)} name {name}")
    rig.assert_as_before()


def test_moved_on_into_a_nested_namespace(rig: Rig) -> None:
    pod, nested = rig.pod(), rig.pod("nested")
    rig.add(pod, **IDENTITY)
    pod.run(f"ip link set net1 netns {nested.name}")
    assert nested.link() is not None
    rig.delete(pod, **IDENTITY)
    rig.assert_as_before()
    assert nested.link() is None


def test_device_is_open_in_the_pod(rig: Rig) -> None:
    """A process of the pod has its uverbs open; DEL does not wait for it."""
    pod = rig.pod()
    rig.add(pod, **IDENTITY)
    with device_held_open(pod, str(rig.hca.rdma_anywhere(0))) as holder:
        rig.delete(pod, **IDENTITY)
        rig.assert_as_before()
        assert holder.poll() is None
    rig.assert_as_before()


def test_record_is_gone(rig: Rig) -> None:
    """The lease goes; the VF returns when its pod ends and can be used again, whatever GUID it has."""
    pod, successor = rig.pod(), rig.pod("successor")
    rig.add(pod, link_state="enable")
    (record,) = (STATE / "attachments").rglob("*.json")
    record.unlink()
    rig.delete(pod)
    assert leases() == []
    pod.delete()
    assert wait(lambda: rig.hca.netdevs(0) and rig.hca.rdma(0))
    rig.add(successor)
    rig.delete(successor)
    assert not (STATE / "devices").exists()


@pytest.mark.parametrize("damage", ["", '{"schema": 99, "key": {}}', "[]"])
@SHARED
def test_record_is_damaged(rig: Rig, damage: str) -> None:
    """It is renamed, and does not keep the next pod from the VF."""
    pod, successor = rig.pod(), rig.pod("successor")
    rig.add(pod)
    (record,) = (STATE / "attachments").rglob("*.json")
    record.write_text(damage)
    rig.delete(pod)
    assert leases() == []
    assert record.with_name(f"{record.name}.damaged").exists()
    pod.delete()
    assert wait(lambda: rig.hca.netdevs(0))
    rig.add(successor)
    rig.delete(successor)
    record.with_name(f"{record.name}.damaged").unlink()
    # its old name was in the record alone
    run(f"ip link set net1 name {rig.before.facts[f'VF 0 ({rig.hca.pci(0)}) netdevs in init']}")
    rig.assert_as_before()


@pytest.mark.parametrize("call", ["DEL", "GC", "ADD of the next pod"])
@SHARED
def test_record_of_another_boot(rig: Rig, call: str) -> None:
    """Nothing of it is forced on the devices of this boot; the lease still goes."""
    pod = rig.pod()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    run_ = rig.call("ADD", pod, trace="set_port_guid.done=kill", **IDENTITY)
    assert run_.status == -9
    (record,) = (STATE / "attachments").rglob("*.json")
    record.write_text(record.read_text().replace(boot_id, "0" * 8 + boot_id[8:]))
    owned = rig.hca.guids_at_pf(0)
    (lease,) = leases()
    if call == "DEL":
        rig.delete(pod, **IDENTITY)
    elif call == "GC":
        nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
        assert rig.call("GC", pod, **IDENTITY, **nothing).status == 0
    else:
        successor = rig.pod("successor")
        rig.add(successor, portTimeout=0)
        assert not record.exists()
        assert lease not in [name for name in leases() if pod.container_id in (LEASES / name).read_text()]
        rig.delete(successor)
    assert rig.hca.guids_at_pf(0) == owned
    assert rig.hca.link_state(0) == "enable"
    assert leases() == []
    assert list(STATE.rglob("*.json")) == []
    assert not (STATE / "devices").exists()
    rig.hca.sets_guid(0, rig.before.facts[f"VF 0 ({rig.hca.pci(0)}) port GUID"])
    if call == "ADD of the next pod":
        rig.hca.rebind(0)  # it took what the PF had
    run(f"ip link set {rig.hca.pf_netdev} vf 0 state auto")
    rig.assert_as_before()


def test_late_del_of_the_first_pod(rig: Rig) -> None:
    """The VF serves another pod by now: it is left alone, and only the first one's lease goes."""
    first, second = rig.pod("first"), rig.pod("second")
    rig.add(first, **IDENTITY)
    first.delete()
    assert wait(lambda: rig.hca.netdevs(0) and rig.hca.rdma(0))
    other = {**IDENTITY, "guid": guid_of(2)}
    result = rig.add(second, **other)
    assert len(leases()) == 1
    rig.delete(first, **IDENTITY)
    check = rig.check(second, result, **other)
    assert check.status == 0, check.stdout
    rig.delete(second, **other)
    rig.assert_as_before()


@SHARED
def test_no_configuration_left_to_trust(rig: Rig) -> None:
    """No deviceID, ranges invalid, ipam of another kind than at ADD: what the record says is released."""
    pod = rig.pod()
    rig.add(pod, **IDENTITY)
    bad = {"type": "host-local", "ranges": [[{"subnet": "10.56.0.0/99"}]]}
    gone = rig.cni("DEL", pod, rig.conf(None, ipam=bad, mtu="much", guid="junk"))
    assert gone.status == 0, gone.stdout
    rig.assert_as_before()


@SHARED
def test_addresses_are_released_where_they_were_reserved(rig: Rig, tmp_path: Path) -> None:
    """The network has got another ipam since the ADD, or keys in a case that the ADD's version did not know."""
    pod = rig.pod()
    rig.add(pod, **IDENTITY)
    assert leases()
    moved = {"type": "host-local", "subnet": "10.57.0.0/24", "dataDir": str(tmp_path)}
    rig.delete(pod, **{**IDENTITY, "ipam": moved})
    assert leases() == []
    rig.assert_as_before()


@SHARED
def test_fault_in_one_release_keeps_no_other_from_running(rig: Rig, tmp_path: Path) -> None:
    """C14: the IPAM plugin is missing at DEL; the VF is returned, and the record stays until the next DEL."""
    plugin = tmp_path / "fixed"
    plugin.write_text(
        '#!/bin/sh\n[ $CNI_COMMAND = DEL ] || echo \'{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2/24"}]}\'\n'
    )
    plugin.chmod(0o755)
    conf = rig.conf(0, ipam={"type": "fixed"}, guid=guid_of(1))
    pod, path = rig.pod(), {"CNI_PATH": str(tmp_path)}
    assert rig.cni("ADD", pod, conf, env=path).status == 0
    plugin.rename(tmp_path / "away")
    gone = rig.cni("DEL", pod, conf, env=path)
    assert gone.code == 104
    assert "fixed" in gone.out["msg"]
    assert rig.hca.netdevs(0)
    assert rig.hca.port_guid(0) == rig.before.facts[f"VF 0 ({rig.hca.pci(0)}) port GUID"]
    assert len(list(STATE.rglob("*.json"))) == 1
    successor = rig.pod("successor")
    rig.add(successor)  # a dead attachment's fault is not the next pod's
    rig.delete(successor)
    (tmp_path / "away").rename(plugin)
    assert rig.cni("DEL", pod, conf, env=path).status == 0
    rig.assert_as_before()


@SHARED
def test_lease_folder_is_gone(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod)
    run(["rm", "-r", os.fspath(LEASES)])
    rig.delete(pod)
    rig.assert_as_before()
