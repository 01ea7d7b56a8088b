"""ib_sriov_cni.core.plan: decisions from facts, and differences between wanted and found."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ib_sriov_cni.core.configuration import NetConf, parse_netconf
from ib_sriov_cni.core.errors import CniError, DeviceUnusable, TryAgainLater, UnsupportedField
from ib_sriov_cni.core.plan import Plan, VfFacts, derive_guid, plan_add
from ib_sriov_cni.core.values import (
    ARPHRD_INFINIBAND,
    GUID_MAX,
    IFF_UP,
    LONE,
    OTHER,
    PHYSICAL,
    VIRTUAL,
    Guid,
    Link,
    PciAddress,
    RdmaDevice,
    VfConfig,
    VfFunction,
)
from ipam.protocol.request import Request
from ipam.protocol.value import replace

PCI = "0000:3b:00.2"
PF_GUID = Guid.parse("b8:59:9f:03:00:d1:c2:b4")
HAS = Guid.parse("02:00:00:00:00:00:00:11")
WANTED = Guid.parse("02:00:00:00:00:00:00:22")
ZERO = Guid(0)


def function(*, index: int = 1, driver: str = "mlx5_core") -> VfFunction:
    return VfFunction(
        pci=PciAddress(PCI),
        pf=PciAddress("0000:3b:00.0"),
        index=index,
        driver=driver,
        pf_driver="mlx5_core",
        pf_netdev="ib0",
    )


def netdev(guid: Guid = HAS, *, name: str = "ib1", flags: int = IFF_UP, pci: str = PCI) -> Link:
    return Link(
        index=7,
        name=name,
        kind=ARPHRD_INFINIBAND,
        flags=flags,
        mtu=2044,
        address=bytes(12) + guid.to_bytes(8, "big"),
        operstate="up",
        pci=pci,
        altnames=(),
    )


def rdma(node: Guid | None = HAS, port: Guid | None = HAS) -> RdmaDevice:
    return RdmaDevice(name="mlx5_3", char_devices=("uverbs3",), node_guid=node, port_guid=port)


def config(guid: Guid = ZERO, state: str = "auto") -> VfConfig:
    return VfConfig(node_guid=guid, port_guid=guid, link_state=state)


FACTS = VfFacts(
    function=function(),
    pf_link=netdev(PF_GUID, name="ib0", pci="0000:3b:00.0"),
    configs={0: config(), 1: config()},
    rdma=rdma(),
    netdev=netdev(),
    rdma_here=True,
    mode="exclusive",
)


def conf(**members: object) -> NetConf:
    return parse_netconf(
        Request(command="ADD", args={}, conf={"name": "ib", "deviceID": PCI, **members}, version="1.1.0", environ={})
    )


def with_guids(node: Guid | None, port: Guid | None) -> VfFacts:
    return replace(FACTS, rdma=rdma(node, port), netdev=netdev(port or ZERO))


# ---- decisions

KEPT = Plan(
    port_guid=HAS,
    node_guid=HAS,
    origin="kept",
    sets_guid=False,
    writes_guid=False,
    needs_rebind=False,
    link_state="",
    moves_rdma=False,
)


def test_a_vf_that_has_a_guid_keeps_it_and_is_not_bound_anew() -> None:
    assert plan_add(conf(), FACTS) == KEPT


def test_two_guids_that_differ_are_kept_as_they_are() -> None:
    plan = plan_add(conf(), with_guids(WANTED, HAS))
    assert (plan.port_guid, plan.node_guid, plan.sets_guid, plan.origin) == (HAS, WANTED, False, "kept")


def test_a_requested_guid_is_set() -> None:
    plan = plan_add(conf(guid=str(WANTED)), FACTS)
    assert (plan.port_guid, plan.node_guid, plan.sets_guid, plan.needs_rebind) == (WANTED, WANTED, True, True)
    assert plan.origin == "guid"


def test_a_requested_guid_that_is_there_costs_no_rebind() -> None:
    plan = plan_add(conf(guid=str(HAS)), FACTS)
    assert (plan.port_guid, plan.sets_guid, plan.needs_rebind, plan.origin) == (HAS, False, False, "guid")


@pytest.mark.parametrize(("node", "port"), [(HAS, WANTED), (WANTED, HAS), (None, WANTED), (WANTED, None)])
def test_one_right_guid_of_two_is_not_enough(node: Guid | None, port: Guid | None) -> None:
    facts = replace(FACTS, rdma=rdma(node, port), netdev=None)
    with pytest.raises(DeviceUnusable, match="no netdev on the host"):
        plan_add(conf(guid=str(WANTED)), facts)
    plan = plan_add(conf(guid=str(WANTED)), replace(facts, netdev=netdev(HAS)))
    assert plan.sets_guid
    assert plan.needs_rebind


@pytest.mark.parametrize(
    ("node", "port"), [(ZERO, ZERO), (HAS, ZERO), (ZERO, HAS), (Guid(GUID_MAX), HAS), (HAS, Guid(GUID_MAX))]
)
def test_a_vf_without_a_usable_guid_gets_a_derived_one(node: Guid, port: Guid) -> None:
    plan = plan_add(conf(), with_guids(node, port))
    assert str(plan.port_guid) == "ba:59:9f:00:02:d1:c2:b4"
    assert (plan.origin, plan.sets_guid, plan.needs_rebind) == ("derived", True, True)


def test_a_derived_guid_that_is_there_already_is_kept() -> None:
    derived = Guid.parse("ba:59:9f:00:02:d1:c2:b4")
    plan = plan_add(conf(), with_guids(derived, derived))
    assert (plan.port_guid, plan.sets_guid, plan.needs_rebind) == (derived, False, False)


def test_the_port_guid_is_told_by_the_netdev_where_the_rdma_device_cannot() -> None:
    assert replace(FACTS, rdma=rdma(HAS, None), netdev=netdev(WANTED)).port_guid == WANTED
    assert replace(FACTS, rdma=None, netdev=None).port_guid is None
    assert replace(FACTS, rdma=None, netdev=None).node_guid is None


@pytest.mark.parametrize(
    ("wanted", "found", "plan"),
    [
        ("", "auto", ""),
        ("", "enable", ""),
        ("", "", ""),
        ("", "disable", "auto"),
        ("auto", "auto", ""),
        ("auto", "disable", "auto"),
        ("enable", "auto", "enable"),
        ("disable", "", "disable"),
        ("disable", "disable", ""),
    ],
)
def test_link_state_is_set_where_it_differs(wanted: str, found: str, plan: str) -> None:
    facts = replace(FACTS, configs={1: config(HAS, found)})
    assert plan_add(conf(link_state=wanted), facts).link_state == plan


def test_a_pf_that_does_not_list_the_vf() -> None:
    facts = replace(FACTS, configs={})
    assert facts.config == VfConfig(node_guid=None, port_guid=None, link_state="")
    assert plan_add(conf(link_state="auto"), facts).link_state == "auto"


@pytest.mark.parametrize("isolation", [True, False])
def test_isolation_moves_the_rdma_device(isolation: bool) -> None:
    assert plan_add(conf(rdmaIsolation=isolation), FACTS).moves_rdma is isolation


PASS_THROUGH = ["vfio-pci", "mlx5_vfio_pci", "pci-stub", "pciback", "uio_pci_generic", "igb_uio"]


@pytest.mark.parametrize("driver", PASS_THROUGH)
def test_a_vf_for_a_virtual_machine_is_configured_on_its_pf_alone(driver: str) -> None:
    facts = replace(
        FACTS,
        function=function(driver=driver),
        rdma=None,
        netdev=None,
        rdma_here=False,
        configs={1: config(HAS)},
    )
    plan = plan_add(conf(rdmaIsolation=True), replace(facts, mode="shared"))
    assert (plan.port_guid, plan.sets_guid, plan.needs_rebind, plan.moves_rdma) == (HAS, False, False, False)
    plan = plan_add(conf(guid=str(WANTED)), facts)
    assert (plan.port_guid, plan.sets_guid, plan.needs_rebind) == (WANTED, True, False)
    plan = plan_add(conf(), replace(facts, configs={1: config()}))
    assert (plan.origin, plan.sets_guid, plan.needs_rebind) == ("derived", True, False)


LONELY = replace(FACTS, function=replace(function(), pf=None, index=-1, pf_netdev="", kind=LONE), configs={})
LONELY = replace(LONELY, pf_link=None)


def test_a_vf_without_a_pf_is_attached_as_it_is() -> None:
    plan = plan_add(conf(rdmaIsolation=True), LONELY)
    assert (plan.port_guid, plan.sets_guid, plan.needs_rebind, plan.link_state) == (HAS, False, False, "")
    assert plan.moves_rdma
    assert not plan_add(conf(guid=str(HAS)), LONELY).sets_guid


@pytest.mark.parametrize("kind", [LONE, PHYSICAL])
def test_what_is_passed_through_without_a_pf_keeps_a_guid_that_nobody_knows(kind: str) -> None:
    passed = replace(LONELY, function=replace(LONELY.function, driver="vfio-pci", kind=kind))
    facts = replace(passed, rdma=None, netdev=None, rdma_here=False)
    plan = plan_add(conf(vfioPciMode=True), facts)
    assert (plan.port_guid, plan.sets_guid, plan.needs_rebind, plan.moves_rdma) == (ZERO, False, False, False)
    with pytest.raises(UnsupportedField, match=r"^guid: .* has no PF on this machine"):
        plan_add(conf(vfioPciMode=True, guid=str(WANTED)), facts)


# ---- refusals


def refused(facts: VfFacts, **members: object) -> CniError:
    with pytest.raises(CniError) as caught:
        plan_add(conf(**members), facts)
    assert caught.value.details, "says what to do"
    return caught.value


def test_what_only_a_pf_could_set() -> None:
    fault = refused(LONELY, guid=str(WANTED))
    assert (fault.code, fault.msg) == (2, f"guid: VF {PCI} {NO_PF}")
    fault = refused(LONELY, link_state="auto")
    assert (fault.code, fault.msg) == (2, f"link_state: VF {PCI} {NO_PF}")
    fault = refused(replace(LONELY, rdma=rdma(ZERO, ZERO), netdev=netdev(ZERO)))
    assert (fault.code, fault.msg) == (101, f"VF {PCI} has no GUID, and {NO_PF}")


NO_PF = "has no PF on this machine, through which GUID and link state are set"


def of_kind(kind: str, driver: str = "mlx5_core") -> VfFacts:
    return replace(LONELY, function=replace(LONELY.function, kind=kind, driver=driver))


@pytest.mark.parametrize("driver", ["mlx5_core", "vfio-pci"])
def test_a_pf_by_mistake(driver: str) -> None:
    fault = refused(of_kind(PHYSICAL, driver))
    assert (fault.code, fault.msg) == (101, f"deviceID {PCI} is a physical function, not a VF")
    assert refused(of_kind(OTHER, driver), vfioPciMode=True).msg == f"deviceID {PCI} is not an SR-IOV virtual function"


@pytest.mark.parametrize("kind", [VIRTUAL, LONE, PHYSICAL])
def test_vfio_pci_mode_without_such_a_driver(kind: str) -> None:
    fault = refused(of_kind(kind), vfioPciMode=True)
    assert fault.code == 2
    assert fault.msg == f"vfioPciMode needs a driver that passes {PCI} through, it is bound to mlx5_core"
    assert "vfio-pci" in refused(of_kind(kind, ""), vfioPciMode=True).details


def test_no_driver() -> None:
    fault = refused(replace(FACTS, function=function(driver=""), rdma=None, netdev=None))
    assert (type(fault), fault.msg) == (DeviceUnusable, f"VF {PCI} has no driver")
    # Works with sriov_drivers_autoprobe 0 too, where a plain drivers_probe does nothing.
    assert f"/sys/bus/pci/devices/{PCI}/driver_override; echo {PCI} > /sys/bus/pci/drivers_probe" in fault.details


def test_no_rdma_device() -> None:
    fault = refused(replace(FACTS, rdma=None, rdma_here=False))
    assert (type(fault), fault.msg) == (DeviceUnusable, f"VF {PCI} has no RDMA device")


def test_an_rdma_device_of_another_pod() -> None:
    fault = refused(replace(FACTS, rdma=rdma(None, None), rdma_here=False, netdev=None))
    assert type(fault) is DeviceUnusable
    assert "in use: its RDMA device mlx5_3 is in another network namespace" in fault.msg


def test_no_netdev() -> None:
    fault = refused(replace(FACTS, netdev=None))
    assert type(fault) is DeviceUnusable
    assert "no netdev on the host" in fault.msg


def test_isolation_in_shared_mode() -> None:
    fault = refused(replace(FACTS, mode="shared"), rdmaIsolation=True)
    assert type(fault) is UnsupportedField
    assert "rdmaIsolation needs the RDMA namespace mode exclusive, it is shared" in fault.msg


@pytest.mark.parametrize(
    "members", [{}, {"guid": str(WANTED)}, {"args": {"cni": {"mellanox.infiniband.app": "configured"}}}]
)
def test_n5_ib_kubernetes_has_not_spoken_yet(members: dict[str, object]) -> None:
    fault = refused(FACTS, ibKubernetesEnabled=True, **members)
    assert type(fault) is TryAgainLater
    assert "ib-kubernetes has not given this pod a GUID yet" in fault.msg


def test_n5_ib_kubernetes_has_spoken() -> None:
    members = {"args": {"cni": {"mellanox.infiniband.app": "configured", "guid": str(WANTED)}}}
    assert plan_add(conf(ibKubernetesEnabled=True, **members), FACTS).port_guid == WANTED


def test_a_pf_without_guid_derives_none() -> None:
    empty = with_guids(ZERO, ZERO)
    for pf in (netdev(ZERO), replace(FACTS.pf_link, kind=1, address=bytes(6))):
        fault = refused(replace(empty, pf_link=pf))
        assert type(fault) is DeviceUnusable
        assert "none can be derived" in fault.msg


def test_a_derived_guid_that_another_vf_has() -> None:
    taken = Guid.parse("ba:59:9f:00:02:d1:c2:b4")
    for other in (VfConfig(node_guid=taken, port_guid=ZERO, link_state=""), config(taken)):
        fault = refused(replace(with_guids(ZERO, ZERO), configs={0: other, 1: config()}))
        assert type(fault) is DeviceUnusable
        assert f"the derived GUID {taken} is already in use" in fault.msg
    own = replace(with_guids(ZERO, ZERO), configs={1: config(taken)})
    assert plan_add(conf(), own).port_guid == taken  # a GUID that the PF holds for this same VF is not a conflict


# ---- derived GUIDs


@pytest.mark.parametrize(
    ("pf", "index", "derived"),
    [
        ("b8:59:9f:03:00:d1:c2:b4", 0, "ba:59:9f:00:01:d1:c2:b4"),
        ("b8:59:9f:03:00:d1:c2:b4", 126, "ba:59:9f:00:7f:d1:c2:b4"),
        ("00:02:c9:ff:fe:a1:b2:c3", 0, "02:02:c9:00:01:a1:b2:c3"),
        ("02:02:c9:ff:fe:a1:b2:c3", 9, "02:02:c9:00:0a:a1:b2:c3"),
    ],
)
def test_the_formula_with_both_fillers(pf: str, index: int, derived: str) -> None:
    assert str(derive_guid(Guid.parse(pf), function(index=index), set())) == derived


@given(st.integers(1, GUID_MAX - 1).map(Guid))
def test_derived_guids_are_usable_and_differ_among_the_vfs_of_a_pf(pf: Guid) -> None:
    assume(pf >> 56 | 0x02 != 0xFF)  # a multicast prefix, which no HCA has
    # If the PF's own GUID has the form of a derived one, the VF that would get it is refused.
    own = pf >> 24 & 0xFFFF if pf >> 56 & 0x02 else 0
    found = {derive_guid(pf, function(index=index), set()) for index in range(127) if index + 1 != own}
    assert len(found) == (126 if 1 <= own <= 127 else 127)
    assert found == {derive_guid(pf, function(index=index), set()) for index in range(127) if index + 1 != own}
    for guid in found:
        assert not guid.fault
        assert guid >> 56 & 0x02
        assert guid != pf


def test_a_pf_with_the_derived_guid_itself() -> None:
    with pytest.raises(DeviceUnusable, match="is already in use"):
        derive_guid(Guid.parse("02:00:00:00:02:00:00:01"), function(index=1), set())


def test_children_on_the_host_are_refused_with_a_p_key() -> None:
    """DEL could not tell them from the pod's, which return to the host when its namespace dies."""
    facts = replace(FACTS, children=("ib2.8001", "x"))
    with pytest.raises(DeviceUnusable, match=r"has P_Key children on the host: ib2\.8001, x"):
        plan_add(conf(pkey="0x8001"), facts)
    assert plan_add(conf(), facts) == plan_add(conf(), FACTS)
