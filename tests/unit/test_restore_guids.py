"""What DEL puts back on the PF, and what becomes of a VF whose PF refuses that or is away; on a fake node."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.attach.delete import delete
from ib_sriov_cni.attach.heal import heal
from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.attach.release import release_device
from ib_sriov_cni.attach.restore_guids import is_foreign, old_guids, restore_config
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import KernelRefused, NotRestored
from ib_sriov_cni.core.record import AttachmentKey, Record
from ib_sriov_cni.core.values import ARPHRD_INFINIBAND, GUID_MAX, Guid, Link, RdmaDevice, VfConfig, VfFunction
from ib_sriov_cni.kernel.vf_settings import VfConfigs
from ipam.protocol.value import replace
from tests.unit.node import VFS, Node
from tests.unit.trees import PF, RECORD, write

INDEX = 1  # of the VF
ZERO, ONES = Guid(0), Guid(GUID_MAX)
PODS = Guid.parse("02:00:00:00:00:00:00:77")  # set by the ADD
OWN = Guid.parse("02:00:00:00:00:00:00:02")  # of the VF itself
THEIRS = Guid.parse("02:00:00:00:00:00:00:99")  # set by an administrator
PF_GUID = Guid.parse("b8:59:9f:03:00:d1:c2:b4")
DERIVED = Guid.parse("ba:59:9f:00:02:d1:c2:b4")
Refusal = Callable[[object], bool]


class Pf:
    """A PF's netlink; `refuses` says which GUIDs and link states it does not take."""

    def __init__(self, config: VfConfig, refuses: Refusal) -> None:
        self.config, self.refuses = config, refuses
        self.tried: list[object] = []

    def read_pf(self, name: str, _index: int, *, only: int | None = None) -> tuple[Link, dict[int, VfConfig]]:
        assert name, "the kernel would answer EINVAL"
        assert only in {None, INDEX}
        address = bytes(12) + PF_GUID.to_bytes(8, "big")
        facts: dict[str, Any] = {"index": 2, "name": name, "kind": ARPHRD_INFINIBAND, "flags": 1, "mtu": 2044}
        return Link(address=address, operstate="up", pci=PF, altnames=(), **facts), {INDEX: self.config}

    def _set(self, what: str, value: object) -> None:
        self.tried.append(value)
        if self.refuses(value):
            raise KernelRefused(f"set {what} {value} of", "VF 1 of PF nopf0", errno.EINVAL)
        self.config = replace(self.config, **{what: value})

    def set_vf_node_guid(self, _vf: VfFunction, guid: Guid) -> None:
        self._set("node_guid", guid)

    def set_vf_port_guid(self, _vf: VfFunction, guid: Guid) -> None:
        self._set("port_guid", guid)

    def set_vf_link_state(self, _vf: VfFunction, state: str) -> None:
        self._set("link_state", state)

    @property
    def guids(self) -> tuple[Guid | None, Guid | None]:
        return self.config.node_guid, self.config.port_guid


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def both(guid: Guid | None, state: str = "auto") -> VfConfig:
    return VfConfig(node_guid=guid, port_guid=guid, link_state=state)


def attached(node: Node, config: VfConfig, refuses: Refusal = lambda _: False, **changes: object) -> tuple[Record, Pf]:
    """An attachment that has set PODS on VF 1, which had no GUID; what the PF has for it now."""
    pf = Pf(config, refuses)
    node.host.vf_configs = VfConfigs(lambda: pf, str(node.root / "sys"))  # type: ignore[arg-type, return-value]
    facts: dict[str, object] = {
        **dict.fromkeys(("had_node_guid", "had_port_guid", "had_config_node_guid", "had_config_port_guid"), ZERO),
        **dict.fromkeys(("node_guid", "port_guid"), PODS),
        "rdma_isolation": False,
        **changes,
    }
    return node.record(VFS[INDEX], **facts), pf  # type: ignore[arg-type]


def test_the_old_guid_is_restored(node: Node) -> None:
    record, pf = attached(node, both(PODS), had_node_guid=OWN, had_port_guid=OWN)
    restore_config(node.host, record)
    assert pf.guids == (OWN, OWN)


def test_where_zero_is_refused_all_ones_say_the_same(node: Node) -> None:
    record, pf = attached(node, both(PODS), lambda value: value == ZERO)
    restore_config(node.host, record)
    assert pf.guids == (ONES, ONES)
    pf.tried.clear()
    restore_config(node.host, record)
    assert pf.tried == [], "a second DEL has nothing to restore"


def test_where_all_ones_are_refused_too_the_vf_gets_its_derived_guid(node: Node) -> None:
    record, pf = attached(node, both(PODS), lambda value: value in {ZERO, ONES})
    restore_config(node.host, record)
    assert pf.guids == (DERIVED, DERIVED)


def test_a_pf_that_refuses_everything(node: Node) -> None:
    record, pf = attached(node, both(PODS), lambda value: isinstance(value, Guid))
    with pytest.raises(NotRestored) as caught:
        restore_config(node.host, record)
    assert caught.value.code == 102
    assert f"set node_guid {ZERO} of VF 1 of PF nopf0: Invalid argument" in caught.value.msg
    assert "try again" in caught.value.details
    pf.refuses = lambda _: False
    restore_config(node.host, record)
    assert pf.guids == (ZERO, ZERO)


def test_a_refusal_that_may_pass_is_tried_again(node: Node) -> None:
    record, pf = attached(node, both(PODS), had_node_guid=OWN, had_port_guid=OWN)

    def busy(value: object) -> bool:
        if pf.tried.count(value) == 1:
            raise KernelRefused("set", "VF 1", errno.EBUSY)
        return False

    pf.refuses = busy
    restore_config(node.host, record)
    assert pf.guids == (OWN, OWN)


def test_an_add_that_could_set_nothing_has_nothing_to_undo(node: Node) -> None:
    record, pf = attached(node, both(ZERO), lambda _: True)
    restore_config(node.host, record)
    assert pf.tried == []
    # Where the PF does not say what it has, the VF does: its GUID is the old one.
    record, pf = attached(node, both(None), lambda _: True, had_node_guid=OWN, had_port_guid=OWN)
    restore_config(node.host, record)
    assert pf.tried == [OWN, ONES, DERIVED, OWN, ONES, DERIVED]


def test_a_half_done_add_is_undone_by_half(node: Node) -> None:
    record, pf = attached(node, VfConfig(node_guid=PODS, port_guid=ZERO, link_state="auto"))
    restore_config(node.host, record)
    assert pf.tried == [ZERO]
    assert pf.guids == (ZERO, ZERO)


def test_what_an_administrator_has_set_since_stays(node: Node) -> None:
    record, pf = attached(node, both(THEIRS))
    restore_config(node.host, record)
    assert pf.guids == (THEIRS, THEIRS)


def test_what_an_administrator_had_set_before_is_restored(node: Node) -> None:
    """The VF had not taken it when another one was requested for the pod."""
    record, pf = attached(node, both(PODS), had_config_node_guid=THEIRS, had_config_port_guid=THEIRS)
    restore_config(node.host, record)
    assert pf.guids == (THEIRS, THEIRS)
    assert old_guids(record) == (THEIRS, THEIRS)


def test_a_record_of_the_go_plugin_does_not_say_what_was_set(node: Node) -> None:
    record, pf = attached(node, both(THEIRS), had_node_guid=OWN, had_port_guid=OWN, node_guid=ZERO, port_guid=ZERO)
    restore_config(node.host, record)
    assert pf.guids == (OWN, OWN)


@pytest.mark.parametrize("had", [ZERO, None])
def test_a_vf_that_is_passed_through_is_not_left_without_a_guid(node: Node, had: Guid | None) -> None:
    """What it had is unknown: it has no RDMA device to ask, and its PF does not know a GUID of the firmware's."""
    names = ("had_node_guid", "had_port_guid", "had_config_node_guid", "had_config_port_guid")
    unknown: dict[str, Any] = dict.fromkeys(names, had)
    record, pf = attached(node, both(PODS), driver="vfio-pci", **unknown)
    release_device(node.host, record, 0.0)
    assert pf.guids == (DERIVED, DERIVED)
    # What was derived by the ADD stays, what was never set is not, and a known GUID is restored.
    record, pf = attached(
        node, both(DERIVED), driver="vfio-pci", **{**unknown, "node_guid": DERIVED, "port_guid": DERIVED}
    )
    release_device(node.host, record, 0.0)
    assert (pf.guids, pf.tried) == ((DERIVED, DERIVED), [])
    record, pf = attached(node, both(ZERO), driver="vfio-pci", **unknown)
    release_device(node.host, record, 0.0)
    assert (pf.guids, pf.tried) == ((ZERO, ZERO), [])
    record, pf = attached(node, both(PODS), driver="vfio-pci", **{**unknown, "had_node_guid": THEIRS})
    release_device(node.host, record, 0.0)
    assert pf.guids == (THEIRS, DERIVED)


def test_a_vf_that_is_passed_through_gets_no_guid_that_another_one_has(node: Node) -> None:
    record, pf = attached(node, both(PODS), driver="vfio-pci")
    node.record(VFS[2], "other", port_guid=DERIVED, node_guid=DERIVED)
    release_device(node.host, record, 0.0)
    assert pf.guids == (ZERO, ZERO)


def test_a_link_state_that_is_refused_is_left(node: Node) -> None:
    record, pf = attached(node, both(PODS, "enable"), lambda value: value == "auto", link_state="enable")
    restore_config(node.host, record)
    assert pf.config == both(ZERO, "enable")


@pytest.mark.parametrize(
    ("has", "configured", "foreign"),
    [
        (ZERO, ZERO, False),
        (ONES, ZERO, False),  # zero was refused
        (PODS, ZERO, True),
        (THEIRS, THEIRS, False),  # taken by the rebind
        (ZERO, THEIRS, False),  # not rebound yet
        (PODS, THEIRS, True),
        (None, ZERO, True),
    ],
)
def test_whose_guid_a_vf_has(has: Guid | None, configured: Guid, foreign: bool) -> None:
    changes: dict[str, Any] = dict.fromkeys(("had_config_node_guid", "had_config_port_guid"), configured)
    record = replace(RECORD, had_node_guid=ZERO, had_port_guid=ZERO, node_guid=PODS, port_guid=PODS, **changes)
    assert is_foreign(record, RdmaDevice(name="mlx5_2", char_devices=(), node_guid=has, port_guid=has)) is foreign


# ---- a PF whose netdev is away


def take_netdev(node: Node) -> Path:
    """Take the PF's netdev away; where it was."""
    folder = node.tree.device(PF) / "net"
    folder.rename(folder.with_name("away"))
    return folder


def test_a_pf_without_netdev_is_named(node: Node) -> None:
    record, _ = attached(node, both(PODS))
    take_netdev(node)
    with pytest.raises(NotRestored) as caught:
        restore_config(node.host, record)
    assert caught.value.code == 101
    assert f"its PF {PF} has no netdev here" in caught.value.msg
    assert "load ib_ipoib" in caught.value.details


def test_a_netdev_that_is_just_coming_is_waited_for(node: Node) -> None:
    record, pf = attached(node, both(PODS))
    folder = take_netdev(node)
    coming = threading.Timer(0.3, lambda: folder.with_name("away").rename(folder))
    coming.start()
    restore_config(node.host, record)
    coming.join()
    assert pf.guids == (ZERO, ZERO)


def test_the_files_of_ofed_need_no_netdev(node: Node) -> None:
    record, _ = attached(node, both(PODS), link_state="enable")
    take_netdev(node)
    folder = node.tree.device(PF) / f"sriov/{INDEX}"
    for name, text in (("node", PODS), ("port", PODS), ("policy", "Up")):
        write(folder / name, f"{text}\n")
    restore_config(node.host, record)
    assert [(folder / name).read_text() for name in ("node", "port", "policy")] == [
        f"{ZERO}\n",
        f"{ZERO}\n",
        "Follow\n",
    ]


# ---- what that means for the VF


def unbound(node: Node) -> str:
    """The VF that was last unbound."""
    return (node.tree.driver("mlx5_core") / "unbind").read_text()


def test_a_vf_that_keeps_the_pods_guid_is_left_without_driver(node: Node) -> None:
    """Otherwise its port would come up with the GUID that the pod's successor has elsewhere."""
    record, _ = attached(node, both(PODS), lambda value: isinstance(value, Guid))
    with pytest.raises(NotRestored):
        release_device(node.host, record, 0.0)
    assert unbound(node) == VFS[INDEX]


def test_a_vf_that_is_passed_through_keeps_its_driver(node: Node) -> None:
    """It has no port on the host, and nobody would bind it to that driver again."""
    record, _ = attached(node, both(PODS), lambda value: isinstance(value, Guid), driver="vfio-pci")
    with pytest.raises(NotRestored):
        release_device(node.host, record, 0.0)
    assert unbound(node) == ""


def test_del_succeeds_and_keeps_the_record(node: Node) -> None:
    record, _ = attached(node, both(PODS), lambda value: isinstance(value, Guid))
    request = make_del_request(record)
    delete(node.host, request, parse_netconf(request, lenient=True))
    assert node.host.records.read(record.key) == record
    assert node.host.ownership.read_owner(VFS[INDEX]) == record.key


def test_the_next_add_of_the_vf_says_what_is_wrong_with_it(node: Node) -> None:
    record, _ = attached(node, both(PODS), lambda value: isinstance(value, Guid), committed=False)
    with pytest.raises(NotRestored, match="Invalid argument"):
        heal(node.host, VFS[INDEX], AttachmentKey(network="ib", container_id="next", ifname="net1"), 0.0)
    assert node.host.records.read(record.key) == record
