"""P_Keys: checked against the VF's table; one that is not its first has an IPoIB child as net1."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.commands import links, run, wait
from tests.lab.pod import Pod
from tests.lab.rig import Rig, answers, connected, guid_of, leases, rigs

TABLES = "0:ffff,8001;1:ffff,8001;2:ffff,8002;3:8001,ffff;4:ffff,0001;5:ffff,8001"
PKEY = "0x8001"


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The module's rig, with P_Key tables."""
    yield from rigs(request.param, pkeys=TABLES)


def pkey_of(pod: Pod, ifname: str = "net1") -> int | None:
    """The P_Key of a child; None if the interface is none."""
    link = pod.link(ifname)
    assert link is not None, pod.links()
    # The broadcast address holds it (RFC 4391, section 4).
    return int(link["broadcast"].replace(":", "")[16:20], 16) if "link" in link else None


def infiniband(pod: Pod) -> list[str]:
    return sorted(link["ifname"] for link in pod.links() if link["link_type"] == "infiniband")


def address(result: object) -> str:
    assert isinstance(result, dict)
    return str(result["ips"][0]["address"].partition("/")[0])


def test_at_index_0_the_netdev_itself_serves(rig: Rig) -> None:
    pod = rig.pod()
    result = rig.add(pod, 3, pkey=PKEY)
    assert infiniband(pod) == ["net1"]
    assert pkey_of(pod) is None
    assert rig.check(pod, result, 3, pkey=PKEY).status == 0
    rig.delete(pod, 3, pkey=PKEY)
    rig.assert_as_before()


def test_at_index_1_a_child_is_the_interface(rig: Rig) -> None:
    """The result names the child and has its hardware address; addresses, routes and MTU are the child's."""
    pod = rig.pod()
    result = rig.add(pod, 0, pkey=PKEY, mtu=2000, guid=guid_of(1))
    assert infiniband(pod) == ["net1", "net1-ib"]
    assert pkey_of(pod) == 0x8001
    child, parent = pod.link("net1"), pod.link("net1-ib")
    assert child is not None
    assert parent is not None
    assert "UP" in child["flags"]
    assert "UP" in parent["flags"]
    (ours,) = result["interfaces"]
    assert ours["name"] == "net1"
    assert ours["mac"] == child["address"]
    assert ours["mac"] != parent["address"]
    assert child["address"].endswith(guid_of(1))
    assert ours["mtu"] == child["mtu"] == 2000
    assert ours["pciID"] == rig.hca.pci(0)
    assert pod.addresses("net1") == [ip["address"] for ip in result["ips"]]
    assert pod.addresses("net1-ib") == []
    check = rig.check(pod, result, 0, pkey=PKEY, mtu=2000, guid=guid_of(1))
    assert check.status == 0, check.stdout
    rig.delete(pod, 0, pkey=PKEY, mtu=2000, guid=guid_of(1))
    assert infiniband(pod) == []
    rig.delete(pod, 0, pkey=PKEY, mtu=2000, guid=guid_of(1))
    rig.assert_as_before()


def test_pods_of_one_p_key_and_of_another(rig: Rig) -> None:
    one, two, other = rig.pod(), rig.pod(), rig.pod()
    rig.add(one, 0, pkey=PKEY)
    there = address(rig.add(two, 1, pkey=PKEY))
    elsewhere = address(rig.add(other, 2, pkey="0x8002"))
    assert all(connected(pod) for pod in (one, two, other))
    assert answers(one, there)
    assert one.run(f"ping -c 2 -i 0.2 -W 2 {elsewhere}", check=False).returncode
    for vf, pod in enumerate((one, two)):
        rig.delete(pod, vf, pkey=PKEY)
    rig.delete(other, 2, pkey="0x8002")
    rig.assert_as_before()


def test_a_limited_member_gets_its_child_too(rig: Rig) -> None:
    """The table has 0x0001: it is the subnet manager that says who is a full member, not the configuration."""
    one, limited = rig.pod(), rig.pod()
    there = address(rig.add(one, 0, pkey=PKEY))
    rig.add(limited, 4, pkey=PKEY)
    assert connected(one)
    assert connected(limited)
    assert answers(limited, there)
    rig.delete(one, 0, pkey=PKEY)
    rig.delete(limited, 4, pkey=PKEY)
    rig.assert_as_before()


def test_not_in_the_table(rig: Rig) -> None:
    pod = rig.pod()
    refused = rig.call("ADD", pod, 2, pkey=PKEY, portTimeout=0.5)
    assert refused.code == 103, refused
    assert "P_Key 0x8001 is not in its table (0xffff, 0x8002)" in refused.out["msg"]
    assert infiniband(pod) == []
    rig.assert_as_before()
    assert leases() == []


def test_a_failed_try_leaves_its_guid_for_the_next(rig: Rig) -> None:
    """The next one has the GUID already; DEL restores the old."""
    conf: dict[str, Any] = {"pkey": PKEY, "guid": guid_of(1)}
    first, second = rig.pod(), rig.pod()
    refused = rig.call("ADD", first, 2, portTimeout=0.5, **conf)
    assert refused.code == 103, refused
    assert f"the VF keeps GUID {guid_of(1)} for the next try" in refused.out["details"]
    rig.delete(first, 2, **conf)
    first.delete()
    assert rig.hca.port_guid(2) == guid_of(1)
    assert leases() == []
    rig.hca.knob("pkeys", TABLES.replace("2:ffff,8002", "2:ffff,8001"))
    done = rig.call("ADD", second, 2, **conf)
    assert done.status == 0, done
    assert "step=unbind" not in done.stderr
    assert pkey_of(second) == 0x8001
    rig.delete(first, 2, **conf)  # comes late, and is the business of another attachment by now
    assert infiniband(second) == ["net1", "net1-ib"]
    rig.delete(second, 2, **conf)
    rig.hca.knob("pkeys", TABLES)
    rig.assert_as_before()


def test_a_p_key_that_comes_late(rig: Rig) -> None:
    """The subnet manager fills the table some time after the port is up, as UFM and ib-kubernetes do."""
    rig.hca.knob("pkey_delay_ms", 2000)
    pod = rig.pod()
    rig.add(pod, 0, pkey=PKEY, guid=guid_of(1))
    assert pkey_of(pod) == 0x8001
    rig.delete(pod, 0, pkey=PKEY, guid=guid_of(1))
    rig.hca.knob("pkey_delay_ms", 0)
    rig.assert_as_before()


def test_the_second_name_is_taken(rig: Rig) -> None:
    """Refused before anything is touched, whatever the P_Key's index may turn out to be (C8)."""
    pod = rig.pod()
    pod.run("ip link add net1-ib type dummy")
    refused = rig.call("ADD", pod, 0, pkey=PKEY)
    assert refused.code == 4, refused
    assert "net1-ib" in refused.out["msg"]
    assert "step=write_record" not in refused.stderr
    rig.assert_as_before()


def test_children_on_the_host_are_not_ours(rig: Rig) -> None:
    pod = rig.pod()
    run(["ip", "link", "add", "link", rig.hca.netdev(0), "name", "admins", "type", "ipoib", "pkey", PKEY])
    refused = rig.call("ADD", pod, 0, pkey=PKEY)
    assert refused.code == 101, refused
    assert "P_Key children on the host: admins" in refused.out["msg"]
    run("ip link del admins")
    rig.assert_as_before()


@pytest.mark.parametrize("dead", [False, True], ids=["pod alive", "pod gone"])
def test_add_killed_when_the_child_is_made_then_del(rig: Rig, dead: bool) -> None:
    pod = rig.pod()
    killed = rig.call("ADD", pod, 0, pkey=PKEY, guid=guid_of(2), trace="add_child.done=kill")
    assert killed.status == -signal.SIGKILL, killed
    assert infiniband(pod) == ["net1", "net1-ib"]
    if dead:
        pod.delete()
    rig.delete(pod, 0, pkey=PKEY, guid=guid_of(2))
    rig.assert_as_before()


@pytest.mark.parametrize("trace", ["add_child=kill", "add_child.done=kill"])
def test_add_killed_without_del_is_healed(rig: Rig, trace: str) -> None:
    """The VF's GUID is kept: ADD does not rebind it, and the child that returned from the dead namespace is deleted."""
    pod, successor = rig.pod(), rig.pod()
    assert rig.call("ADD", pod, 0, pkey=PKEY, trace=trace).status == -signal.SIGKILL
    pod.delete()
    result = rig.add(successor, 0, pkey=PKEY)
    rig.delete(pod, 0, pkey=PKEY)
    assert rig.check(successor, result, 0, pkey=PKEY).status == 0
    rig.delete(successor, 0, pkey=PKEY)
    rig.assert_as_before()


@pytest.mark.parametrize("step", ["add_child", "configure"])
def test_add_that_fails_undoes_itself(rig: Rig, step: str) -> None:
    pod = rig.pod()
    failed = rig.call("ADD", pod, 0, pkey=PKEY, trace=f"{step}=fail")
    assert failed.status == 1, failed
    assert infiniband(pod) == []
    rig.assert_as_before()
    assert leases() == []


def test_del_when_the_pod_is_gone(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, 0, pkey=PKEY)
    pod.delete()
    rig.delete(pod, 0, pkey=PKEY)
    rig.assert_as_before()


def test_del_killed_after_the_devices_were_returned(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, 0, pkey=PKEY)
    assert rig.call("DEL", pod, 0, pkey=PKEY, trace="return_devices.done=kill").status == -signal.SIGKILL
    rig.delete(pod, 0, pkey=PKEY)
    rig.assert_as_before()


def test_del_when_the_pod_moved_the_child_on(rig: Rig) -> None:
    """Into a namespace of its own, where it would go on speaking for whoever gets the VF next."""
    pod, nested = rig.pod(), rig.pod("nested")
    rig.add(pod, 0, pkey=PKEY)
    pod.run(f"ip link set net1 netns {nested.name}")
    rig.delete(pod, 0, pkey=PKEY)
    assert infiniband(nested) == []
    rig.assert_as_before()


def test_check_sees_the_child(rig: Rig) -> None:
    """C15: gone, renamed, another one in its place, or without the netdev that it needs."""
    pod = rig.pod()
    result = rig.add(pod, 0, pkey=PKEY)

    def difference() -> str:
        found = rig.check(pod, result, 0, pkey=PKEY)
        assert found.code == 105, found
        return str(found.out["msg"])

    pod.run("ip link set net1-ib down")
    assert "interface net1-ib is down, which net1 needs" in difference()
    pod.run("ip link set net1-ib up")
    pod.run("ip link set net1 down; ip link set net1 name mine")
    assert "interface net1 was renamed to mine" in difference()
    pod.run("ip link del mine")
    assert "interface net1 is gone" in difference()
    pod.run("ip link add link net1-ib name net1 type ipoib pkey 0x8002")
    assert "interface net1 is not the VF's child with P_Key 0x8001" in difference()
    rig.delete(pod, 0, pkey=PKEY)
    rig.assert_as_before()


def test_two_interfaces_of_one_pod(rig: Rig) -> None:
    """Their netdevs have names of their own; one's DEL leaves the other alone."""
    pod = rig.pod()
    second: dict[str, Any] = {"pkey": PKEY, "ifname": "net2", "ipam": None}
    rig.add(pod, 0, pkey=PKEY)
    result = rig.add(pod, 5, **second)
    assert infiniband(pod) == ["net1", "net1-ib", "net2", "net2-ib"]
    rig.delete(pod, 0, pkey=PKEY)
    assert infiniband(pod) == ["net2", "net2-ib"]
    assert rig.check(pod, result, 5, **second).status == 0
    rig.delete(pod, 5, **second)
    rig.assert_as_before()


def test_no_child_is_made_on_the_host(rig: Rig) -> None:
    """What the plugin makes is in the pod alone, from its first moment."""
    pod = rig.pod()
    rig.add(pod, 0, pkey=PKEY)
    assert wait(lambda: not [link for link in links() if link["link_type"] == "infiniband" and "link" in link])
    rig.delete(pod, 0, pkey=PKEY)
    rig.assert_as_before()
