"""RDMA devices, netdevs and network namespaces on this kernel (the lab's own checks)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.commands import complaint, link, names, rdma_names, run, wait, write
from tests.lab.emulated_hca import DRIVERS, Hca, rdma_mode
from tests.lab.hca.conftest import MakeHca, MakePod


@pytest.fixture
def exclusive(make_hca: MakeHca) -> Hca:
    return make_hca(mode="exclusive", preset=True)


@pytest.fixture
def host(exclusive: Hca) -> str:
    """A name for init's own network namespace, to move devices back to."""
    path = Path("/run/netns/host")
    path.touch()
    run(["mount", "--bind", "/proc/1/ns/net", str(path)])
    return path.name


def test_shared_mode_refuses_the_move(hca: Hca, pods: MakePod) -> None:
    pod = pods("a")
    assert "not supported" in complaint(["rdma", "dev", "set", str(hca.rdma(0)), "netns", pod.name])


def test_mode_stays_while_namespaces_live(hca: Hca, pods: MakePod) -> None:
    pod = pods("a")
    assert "busy" in complaint("rdma system set netns exclusive")
    pod.delete()
    assert wait(lambda: not complaint("rdma system set netns exclusive"))
    assert rdma_mode() == "exclusive"


def test_exclusive_mode_stays_while_namespaces_live(exclusive: Hca, pods: MakePod) -> None:
    pods("a")
    assert "busy" in complaint("rdma system set netns shared")
    assert rdma_mode() == "exclusive"


def test_rdma_device_moves(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    name = exclusive.move_rdma(0, pod.name)
    assert pod.rdma() == [name]
    assert name not in rdma_names()


def test_its_netdev_is_made_anew(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    old = exclusive.netdev(0)
    index = link(old)["ifindex"]
    run(f"ip link set {old} up; ip addr add 10.9.9.9/24 dev {old}; ip link property add dev {old} altname other0")
    exclusive.move_rdma(0, pod.name)
    where = None if exclusive.netdevs(0) else pod.name
    new = link(exclusive.netdev(0, where), where)
    assert new["ifindex"] != index
    assert "UP" not in new["flags"]
    assert new["addr_info"] == []
    assert "altnames" not in new


def test_netdev_moves_and_is_renamed(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    exclusive.to_pod(0, pod.name)
    assert sorted(each["ifname"] for each in pod.links()) == ["lo", "net1"]


def test_sysfs_shows_devices_by_its_own_namespace(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    exclusive.to_pod(0, pod.name)
    path = exclusive.vf_path(0)
    assert (names(path / "net"), names(path / "infiniband")) == ([], [])
    assert pod.run(["ls", f"{path}/net"]).stdout.split() == ["net1"]
    assert pod.run(["ls", f"{path}/infiniband"]).stdout.split() == pod.rdma()
    assert exclusive.rdma_anywhere(0) == pod.rdma()[0]


def test_netdev_first_is_lost(exclusive: Hca, pods: MakePod) -> None:
    """The wrong order: the netdev that went ahead is destroyed when the RDMA device follows."""
    pod = pods("a")
    run(["ip", "link", "set", "dev", exclusive.netdev(0), "netns", pod.name, "name", "early0"])
    exclusive.move_rdma(0, pod.name)
    assert "early0" not in [each["ifname"] for each in pod.links()]


def test_rdma_device_comes_back_from_inside(exclusive: Hca, pods: MakePod, host: str) -> None:
    pod = pods("a")
    name = exclusive.move_rdma(0, pod.name)
    assert complaint(["rdma", "dev", "set", name, "netns", host]), "init moved a device that it does not see"
    pod.run(["rdma", "dev", "set", name, "netns", host])
    assert name in rdma_names()


def test_move_onto_a_taken_name(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    exclusive.to_pod(0, pod.name)
    netdev = exclusive.netdev(1)
    assert "exists" in complaint(["ip", "link", "set", "dev", netdev, "netns", pod.name, "name", "net1"])


def test_namespace_end_brings_both_back(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    name, guid = exclusive.rdma(0), exclusive.port_guid(0)
    exclusive.to_pod(0, pod.name)
    index = link("net1", pod.name)["ifindex"]
    pod.delete()
    assert wait(lambda: exclusive.rdma(0) == name and exclusive.netdevs(0))
    new = link(exclusive.netdev(0))
    assert new["ifname"].startswith("ib")
    assert new["ifindex"] != index
    assert new["operstate"] == "DOWN"
    assert exclusive.port_guid(0) == guid


def test_netdev_alone_comes_back_under_its_pod_name(hca: Hca, pods: MakePod) -> None:
    pod = pods("a")
    netdev = hca.netdev(0)
    index = link(netdev)["ifindex"]
    run(f"ip link property add dev {netdev} altname orig0; ip link set {netdev} netns {pod.name} name net1")
    pod.delete()
    assert wait(lambda: hca.netdevs(0)) == ["net1"]
    assert link("net1")["ifindex"] == index
    assert link("net1")["altnames"] == ["orig0"]


def test_netdev_alone_comes_back_by_number_if_its_name_is_taken(hca: Hca, pods: MakePod) -> None:
    pod = pods("a")
    run(f"ip link set {hca.netdev(0)} netns {pod.name} name net1; ip link add net1 type dummy")
    pod.delete()
    assert wait(lambda: hca.netdevs(0))
    assert hca.netdev(0).startswith("dev")


def test_rebind_under_a_pod(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    exclusive.to_pod(0, pod.name)
    assert exclusive.rebind(0) == ("OK", "OK")


def test_rebind_brings_both_back(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    exclusive.to_pod(0, pod.name)
    exclusive.rebind(0)
    assert exclusive.netdevs(0)
    assert exclusive.rdma(0)
    assert pod.rdma() == []
    assert [each["ifname"] for each in pod.links()] == ["lo"]


def test_no_vfs_under_a_pod(exclusive: Hca, pods: MakePod) -> None:
    pod = pods("a")
    exclusive.to_pod(0, pod.name)
    assert exclusive.set_numvfs(0) == "OK"
    assert pod.rdma() == []
    assert [each["ifname"] for each in pod.links()] == ["lo"]


def test_namespace_end_brings_a_device_back_onto_a_taken_name(exclusive: Hca, pods: MakePod) -> None:
    """VF 0's device is in a pod; others bound meanwhile may take its name where names are per namespace (7.3)."""
    pod = pods("a")
    first, second = exclusive.pci(1), exclusive.pci(2)
    write(f"{DRIVERS}/ib_qib/unbind", first)
    exclusive.to_pod(0, pod.name)
    write(f"{DRIVERS}/ib_qib/unbind", second)
    assert write(f"{DRIVERS}/ib_qib/bind", first) == "OK"
    assert write(f"{DRIVERS}/ib_qib/bind", second) == "OK"
    pod.delete()
    assert wait(lambda: exclusive.rdma(0) and exclusive.netdevs(0))
    assert len(set(rdma_names())) == 5


def test_rdma_rename(hca: Hca) -> None:
    index = link(hca.netdev(0))["ifindex"]
    run(["rdma", "dev", "set", str(hca.rdma(0)), "name", "othername"])
    assert hca.rdma(0) == "othername"
    assert link(hca.netdev(0))["ifindex"] == index
    assert complaint(["rdma", "dev", "set", "othername", "name", str(hca.rdma(1))])


def test_rebind_gives_the_drivers_name_again(hca: Hca) -> None:
    run(["rdma", "dev", "set", str(hca.rdma(0)), "name", "othername"])
    hca.rebind(0)
    assert str(hca.rdma(0)).startswith("mlx5_")
