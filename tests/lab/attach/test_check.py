"""CHECK names what has changed in an attachment, and says nothing while all is right (C15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.commands import run, wait
from tests.lab.outcome import has_passed
from tests.lab.pod import Pod
from tests.lab.rig import LEASES, STATE, Rig

GUID = "02:11:22:33:44:55:66:77"
IDENTITY: dict[str, Any] = {"guid": GUID, "link_state": "enable", "mtu": 2000}


class Attached:
    """One attachment that the cases of a mode change and put right again."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.pod: Pod
        self.result: Any
        self.attach()

    def attach(self) -> None:
        """A new pod, attached."""
        self.pod = self.rig.pod("checked")
        self.result = self.rig.add(self.pod, **IDENTITY)

    def attach_again(self) -> None:
        """DEL and ADD: the broken attachment is released, and works again with the same address."""
        self.rig.delete(self.pod, **IDENTITY)
        self.rig.assert_as_before()
        (LEASES / "last_reserved_ip.0").unlink()
        self.result = self.rig.add(self.pod, **IDENTITY)

    def differences(self) -> str:
        """What CHECK complains of; "" when it is content."""
        found = self.rig.check(self.pod, self.result, **IDENTITY)
        assert found.code in (None, 105), found
        if found.code is None:
            assert (found.status, found.stdout) == (0, ""), found
            return ""
        return str(found.out["msg"])

    def ip(self, words: str) -> None:
        run(f"ip -n {self.pod.name} {words}")


@pytest.fixture(scope="module")
def attached(loaded: Rig) -> Iterator[Attached]:
    made = Attached(loaded)
    yield made
    loaded.delete(made.pod, **IDENTITY)
    loaded.assert_as_before()


@pytest.fixture(autouse=True)
def content_afterwards(attached: Attached, request: pytest.FixtureRequest) -> Iterator[None]:
    """Each case ends with an attachment that CHECK likes: what the next one finds is its own doing."""
    yield
    if has_passed(request):
        assert attached.differences() == ""
    else:
        attached.rig.restore()
        attached.attach()


def test_what_later_plugins_add_is_tolerated(attached: Attached) -> None:
    attached.ip("addr add 10.57.0.9/24 dev net1")
    attached.ip("route add 10.98.0.0/16 dev net1")
    attached.ip("link add more type dummy")
    assert attached.differences() == ""
    attached.ip("link del more")
    attached.ip("addr del 10.57.0.9/24 dev net1")
    attached.ip("route del 10.98.0.0/16 dev net1")


def test_address_gone(attached: Attached) -> None:
    attached.ip("addr del 10.56.0.2/24 dev net1")
    assert "address 10.56.0.2/24 is gone" in attached.differences()
    attached.ip("addr add 10.56.0.2/24 dev net1")
    attached.ip("route replace 10.99.0.0/16 via 10.56.0.1 dev net1")


def test_route_gone(attached: Attached) -> None:
    attached.ip("route del 10.99.0.0/16")
    assert "route 10.99.0.0/16 via 10.56.0.1 is gone" in attached.differences()
    attached.ip("route add 10.99.0.0/16 via 10.56.0.1 dev net1")


def test_link_down(attached: Attached) -> None:
    attached.ip("link set net1 down")
    assert "interface net1 is down" in attached.differences()
    attached.ip("link set net1 up")
    attached.ip("route replace 10.99.0.0/16 via 10.56.0.1 dev net1")


def test_renamed(attached: Attached) -> None:
    attached.ip("link set net1 down")
    attached.ip("link set net1 name mine")
    assert "interface net1 was renamed to mine" in attached.differences()
    attached.ip("link set mine name net1")
    attached.ip("link set net1 up")
    attached.ip("route replace 10.99.0.0/16 via 10.56.0.1 dev net1")


def test_another_interface_bears_the_name(attached: Attached) -> None:
    attached.ip("link set net1 down")
    attached.ip("link set net1 name mine")
    attached.ip("link add net1 type dummy")
    assert "net1" in attached.differences()
    attached.ip("link del net1")
    attached.ip("link set mine name net1")
    attached.ip("link set net1 up")
    attached.ip("route replace 10.99.0.0/16 via 10.56.0.1 dev net1")


def test_mtu_changed(attached: Attached) -> None:
    attached.ip("link set net1 mtu 1500")
    assert "mtu 1500, not 2000" in attached.differences()
    attached.ip("link set net1 mtu 2000")


def test_guid_changed_on_the_pf(attached: Attached) -> None:
    hca = attached.rig.hca
    for kind in ("node", "port"):
        run(f"ip link set {hca.pf_netdev} vf 0 {kind}_guid 02:00:00:00:00:00:00:0b")
        assert f"{kind} GUID 02:00:00:00:00:00:00:0b" in attached.differences()
        run(f"ip link set {hca.pf_netdev} vf 0 {kind}_guid {GUID}")


def test_link_state_changed_on_the_pf(attached: Attached) -> None:
    hca = attached.rig.hca
    run(f"ip link set {hca.pf_netdev} vf 0 state disable")
    assert "link state disable" in attached.differences()
    run(f"ip link set {hca.pf_netdev} vf 0 state enable")


def test_lease_gone(attached: Attached) -> None:
    lease = LEASES / "10.56.0.2"
    text = lease.read_bytes()
    lease.unlink()
    assert "reservation: " in attached.differences()
    lease.write_bytes(text)


def test_lease_is_anothers(attached: Attached) -> None:
    lease = LEASES / "10.56.0.2"
    text = lease.read_bytes()
    # Made anew each time, as every plugin does: what is written over in place is not looked for.
    lease.unlink()
    lease.write_bytes(b"somebodyelse\r\nnet1")
    assert "reservation: " in attached.differences()
    lease.unlink()
    lease.write_bytes(text)


def test_record_gone(attached: Attached) -> None:
    (record,) = (STATE / "attachments").rglob("*.json")
    elsewhere = record.with_name("elsewhere")
    record.rename(elsewhere)
    assert "there is no record of it" in attached.differences()
    elsewhere.rename(record)


def test_owner_is_another(attached: Attached) -> None:
    owner = STATE / "devices" / attached.rig.hca.pci(0)
    target = owner.readlink()
    owner.unlink()
    owner.symlink_to("ibnet/somebodyelse:net1")
    assert "belongs to another attachment" in attached.differences()
    owner.unlink()
    owner.symlink_to(target)


def test_rdma_device_out_of_the_pod(attached: Attached) -> None:
    """Its netdev has gone with it. In shared mode the device is everybody's, and cannot be moved."""
    rig, pod = attached.rig, attached.pod
    name = rig.hca.rdma_anywhere(0)
    other = rig.pod("other")
    moved = pod.run(f"rdma dev set {name} netns {other.name}", check=False)
    if not rig.exclusive:
        assert moved.returncode != 0
        assert name in pod.rdma()
        return
    assert moved.returncode == 0, moved.stderr
    assert f"RDMA device {name} is not in the pod" in attached.differences()
    attached.attach_again()


def test_driver_gone(attached: Attached) -> None:
    rig = attached.rig
    assert rig.hca.unbind(0) == "OK"
    found = attached.differences()
    assert "has driver none, not ib_qib" in found
    assert "interface net1 is gone" in found
    assert "has no RDMA device" in found
    assert rig.hca.bind(0) == "OK"
    assert wait(lambda: rig.hca.netdevs(0))
    attached.attach_again()


def test_vf_gone(attached: Attached) -> None:
    """SR-IOV is turned off below the pod; DEL still gives the address back.

    The PF keeps the VFs' settings until they are made again (as mlx5 does); meanwhile they cannot be changed.
    """
    rig = attached.rig
    pci = rig.hca.pci(0)
    assert rig.hca.set_numvfs(0) == "OK"
    found = rig.cni("CHECK", attached.pod, rig.conf(None, deviceID=pci, prevResult=attached.result, **IDENTITY))
    assert found.code == 105
    assert f"VF {pci} is gone" in found.out["msg"]
    gone = rig.cni("DEL", attached.pod, rig.conf(None, deviceID=pci, **IDENTITY))
    assert gone.status == 0, gone.stdout
    assert rig.hca.set_numvfs(rig.vfs) == "OK"
    assert rig.hca.settled()
    rig.hca.sets_guid(0, rig.before.facts[f"VF 0 ({pci}) port GUID"])
    run(f"ip link set {rig.hca.pf_netdev} vf 0 state auto")
    rig.hca.rebind(0)
    rig.assert_as_before()
    attached.result = rig.add(attached.pod, **IDENTITY)


def test_without_prev_result(attached: Attached) -> None:
    found = attached.rig.call("CHECK", attached.pod, **IDENTITY)
    assert found.code == 7
    assert "prevResult is missing" in found.out["msg"]


def test_of_another_pod(attached: Attached) -> None:
    """An attachment that was never made has no record; the other one's is not taken for it."""
    found = attached.rig.check(attached.rig.pod("stranger"), attached.result, **IDENTITY)
    assert found.code == 105
    assert "there is no record of it" in found.out["msg"]


def test_state_is_private(attached: Attached) -> None:
    """Whatever the umask of the runtime."""
    assert STATE.stat().st_mode & 0o777 == 0o700
