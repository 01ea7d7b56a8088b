"""What a pod has after ADD and the VF again after DEL: GUIDs, link state, MTU, addresses, traffic."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.lab.commands import run, wait
from tests.lab.emulated_hca import NO_GUID
from tests.lab.modes import SHARED
from tests.lab.pod import Pod
from tests.lab.rig import IPV4, Rig, answers, at_once, connected, guid_of, rigs

BOTH = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.56.0.0/24"}], [{"subnet": "fd00:56::/64"}]],
    "routes": [{"dst": "fd00:99::/32"}, {"dst": "10.99.0.0/16"}],
}


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Two PFs; the VFs' GUIDs are zero."""
    yield from rigs(request.param, vfs=2, total_vfs=4, pfs=2, preset=False)


def ibv_rc_pingpong(server: Pod, client: Pod, devices: tuple[str, str], address: str) -> None:
    """RDMA between two pods; both sides must say that it went through."""

    def serve() -> str:
        return server.run(f"ibv_rc_pingpong -d {devices[0]} -g 0 -n 100", timeout=120).stdout

    def ask() -> str:
        assert wait(lambda: ":18515 " in server.run("ss -ltn").stdout)
        return client.run(f"ibv_rc_pingpong -d {devices[1]} -g 0 -n 100 {address}", timeout=120).stdout

    for said in at_once([serve, ask]):
        assert "100 iters" in said, said


def test_two_pods_talk(rig: Rig) -> None:
    """IPv4, IPv6 (usable at once when ADD returns) and RDMA; the VFs' zero GUIDs are zero again afterwards."""
    pods = [rig.pod("left"), rig.pod("right")]
    results = at_once(partial(rig.add, pod, vf, ipam=BOTH) for vf, pod in enumerate(pods))
    macs = [result["interfaces"][0]["mac"][-23:] for result in results]
    assert len(set(macs)) == 2
    for vf, (pod, guid) in enumerate(zip(pods, macs, strict=True)):
        assert guid != NO_GUID
        assert int(guid[:2], 16) & 2
        assert rig.hca.guids_at_pf(vf) == (guid, guid)
        shown: Any = pod.link()
        assert not [each for each in shown["addr_info"] if each["scope"] == "global" and each.get("tentative")]
    left, right = pods
    addresses = [address.partition("/")[0] for address in right.addresses()]
    assert [":" in address for address in addresses] == [False, True]
    assert connected(left)
    assert connected(right)
    for address in addresses:
        assert answers(left, address), address
    assert [route["dst"] for route in left.routes() if route.get("gateway")] == ["10.99.0.0/16", "fd00:99::/32"]
    devices = (str(rig.hca.rdma_anywhere(0)), str(rig.hca.rdma_anywhere(1)))
    own = left.addresses()[0].partition("/")[0]
    ibv_rc_pingpong(left, right, devices, own)
    for vf, pod in enumerate(pods):
        rig.delete(pod, vf, ipam=BOTH)
    assert rig.hca.port_guid(0) == rig.hca.port_guid(1) == NO_GUID
    rig.assert_as_before()


def test_derived_guid_is_the_same_each_time(rig: Rig) -> None:
    seen = set()
    for _ in range(2):
        pod = rig.pod()
        seen.add(rig.add(pod)["interfaces"][0]["mac"][-23:])
        rig.delete(pod)
    assert len(seen) == 1
    rig.assert_as_before()


def test_link_state_and_mtu_are_set_and_restored(rig: Rig) -> None:
    pod = rig.pod()
    run(f"ip link set {rig.hca.netdev(0)} mtu 1800")
    rig.add(pod, link_state="enable", mtu=1500)
    link: Any = pod.link()
    assert (link["mtu"], rig.hca.link_state(0)) == (1500, "enable")
    rig.delete(pod)
    assert rig.hca.link_state(0) == "auto"
    assert wait(lambda: run(f"cat /sys/class/net/{rig.hca.netdev(0)}/mtu").stdout.strip() == "1800")
    run(f"ip link set {rig.hca.netdev(0)} mtu 2044")
    rig.assert_as_before()


def test_disabled_link_is_not_waited_for(rig: Rig) -> None:
    """An hour of patience, and ADD is back at once: the port of a disabled link never comes up."""
    pod = rig.pod()
    rig.add(pod, link_state="disable", portTimeout=3600)
    assert rig.hca.link_state(0) == "disable"
    rig.delete(pod)
    rig.assert_as_before()


def test_two_vfs_of_two_pfs_in_one_pod(rig: Rig) -> None:
    pod, other = rig.pod(), rig.hca.pfs[1]
    first = rig.add(pod, 0)
    conf = rig.conf(
        None,
        deviceID=other.pci(0),
        name="second",
        ipam={**IPV4, "ranges": [[{"subnet": "10.57.0.0/24"}]], "routes": []},
    )
    second = rig.cni("ADD", pod, conf, "net2")
    assert second.status == 0, second.stdout
    assert pod.addresses("net1") == [first["ips"][0]["address"]]
    assert pod.addresses("net2") == ["10.57.0.2/24"]
    assert first["interfaces"][0]["pciID"] != second.out["interfaces"][0]["pciID"]
    if rig.exclusive:
        assert len(pod.rdma()) == 2
    assert rig.cni("CHECK", pod, {**conf, "prevResult": second.out}, "net2").status == 0
    assert rig.check(pod, first, 0).status == 0
    assert rig.cni("DEL", pod, conf, "net2").status == 0
    assert rig.check(pod, first, 0).status == 0
    rig.delete(pod, 0)
    rig.assert_as_before()


def test_no_addresses_wanted(rig: Rig) -> None:
    pod = rig.pod()
    result = rig.add(pod, ipam=None)
    assert "ips" not in result
    assert pod.addresses() == []
    assert rig.check(pod, result, ipam=None).status == 0
    rig.delete(pod, ipam=None)
    rig.assert_as_before()


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "1.0.0"])
@SHARED
def test_older_versions(rig: Rig, version: str) -> None:
    """C7: the result has the configuration's version and shape."""
    pod = rig.pod()
    result = rig.add(pod, cniVersion=version, guid=guid_of(3))
    assert result["cniVersion"] == version
    if version < "0.3":
        assert result["ip4"]["ip"] == pod.addresses()[0]
    else:
        assert result["ips"][0]["interface"] == 0
        assert result["interfaces"][0]["mac"].endswith(guid_of(3))
    rig.delete(pod, cniVersion=version)
    rig.assert_as_before()


def test_two_rails_of_one_network_in_one_pod(rig: Rig) -> None:
    """The second finds the network's routes there already, by the first one's interface."""
    pod = rig.pod()
    dual = [{"dst": "10.99.0.0/16", "gw": "10.56.0.1"}, {"dst": "fd09::/64", "gw": "fd56::1"}]
    ipam = {**IPV4, "ranges": [[{"subnet": "10.56.0.0/24"}], [{"subnet": "fd56::/64"}]], "routes": dual}
    rails = {"net1": 0, "net2": 1}
    results = {ifname: rig.add(pod, vf, ifname=ifname, ipam=ipam) for ifname, vf in rails.items()}
    for ifname, vf in rails.items():
        assert rig.call("CHECK", pod, vf, ifname=ifname, ipam=ipam, prevResult=results[ifname]).status == 0
    rig.delete(pod, 0, ipam=ipam)
    assert rig.call("CHECK", pod, 1, ifname="net2", ipam=ipam, prevResult=results["net2"]).status == 0
    rig.delete(pod, 1, ifname="net2", ipam=ipam)
    rig.assert_as_before()
