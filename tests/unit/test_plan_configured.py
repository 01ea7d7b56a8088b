"""ib_sriov_cni.core.plan: GUIDs that an administrator has set on the PF, and the VF has not taken yet."""

from __future__ import annotations

import pytest

from ib_sriov_cni.core.plan import VfFacts, plan_add
from ib_sriov_cni.core.values import GUID_MAX, Guid, VfConfig
from ipam.protocol.value import replace
from tests.unit.test_plan import FACTS, HAS, WANTED, ZERO, conf, config, with_guids
from tests.unit.trees import RECORD


def configured(node: Guid | None, port: Guid | None, facts: VfFacts) -> VfFacts:
    """The facts of a VF for which the PF reports these GUIDs."""
    return replace(facts, configs={0: config(), 1: VfConfig(node_guid=node, port_guid=port, link_state="auto")})


@pytest.mark.parametrize("has", [ZERO, HAS])
def test_guids_that_an_administrator_has_set_on_the_pf_are_taken(has: Guid) -> None:
    """The VF takes them at a rebind; until then, it has another one or none."""
    plan = plan_add(conf(), configured(WANTED, WANTED, with_guids(has, has)))
    assert (plan.node_guid, plan.port_guid, plan.origin) == (WANTED, WANTED, "configured")
    assert (plan.sets_guid, plan.needs_rebind) == (True, True)


def test_two_guids_on_the_pf_stay_two() -> None:
    plan = plan_add(conf(), configured(HAS, WANTED, with_guids(ZERO, ZERO)))
    assert (plan.node_guid, plan.port_guid, plan.origin) == (HAS, WANTED, "configured")


@pytest.mark.parametrize(
    ("node", "port", "has", "expected"),
    [
        (None, WANTED, HAS, (HAS, WANTED)),
        (ZERO, WANTED, HAS, (HAS, WANTED)),
        (WANTED, None, HAS, (WANTED, HAS)),
        (ZERO, WANTED, ZERO, (WANTED, WANTED)),
        (Guid(GUID_MAX), WANTED, Guid(GUID_MAX), (WANTED, WANTED)),
    ],
)
def test_one_guid_on_the_pf(node: Guid | None, port: Guid | None, has: Guid, expected: tuple[Guid, Guid]) -> None:
    plan = plan_add(conf(), configured(node, port, with_guids(has, has)))
    assert (plan.node_guid, plan.port_guid) == expected


@pytest.mark.parametrize("on_the_pf", [ZERO, Guid(GUID_MAX), None, HAS])
def test_a_pf_that_has_no_other_guid_costs_no_rebind(on_the_pf: Guid | None) -> None:
    plan = plan_add(conf(), configured(on_the_pf, on_the_pf, FACTS))
    assert (plan.origin, plan.needs_rebind) == ("kept", False)


def test_a_guid_on_the_pf_that_somebody_else_has_is_not_taken() -> None:
    facts = replace(configured(WANTED, WANTED, FACTS), holders={WANTED: "VF 3 of PF ib0"})
    assert plan_add(conf(), facts).origin == "kept"
    facts = replace(configured(WANTED, WANTED, with_guids(ZERO, ZERO)), holders={WANTED: "VF 3 of PF ib0"})
    assert plan_add(conf(), facts).origin == "derived"


def test_a_requested_guid_goes_before_the_pfs() -> None:
    plan = plan_add(conf(guid=str(HAS)), configured(WANTED, WANTED, with_guids(ZERO, ZERO)))
    assert (plan.port_guid, plan.origin) == (HAS, "guid")


def test_what_an_earlier_try_has_set_on_the_pf_is_no_administrators() -> None:
    """It failed for want of a subnet manager; DEL must restore what was there before it."""
    earlier = replace(RECORD, had_node_guid=ZERO, had_port_guid=ZERO, node_guid=WANTED, port_guid=WANTED)
    facts = replace(configured(WANTED, WANTED, with_guids(ZERO, ZERO)), earlier=earlier)
    assert plan_add(conf(), facts).origin == "derived"
    assert facts.had_config_guids == (ZERO, ZERO)
