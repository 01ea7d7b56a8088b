"""One test case of a doctor check, and helpers that change the healthy node."""

from __future__ import annotations

from dataclasses import dataclass

from ib_sriov_cni.doctor.facts import AllFacts
from ipam.protocol.value import replace
from tests.unit.doctor_node import FOLDER, HEALTHY, NETWORK, NODE, RECORD, change


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is changed, and what the check then says."""

    check: str
    facts: AllFacts
    status: str
    text: str
    hint: str = ""


PORTS = HEALTHY.ports or {}
CONFIGS = HEALTHY.vf_configs or {}


def program(**fields: object) -> AllFacts:
    return change("node", plugin=replace(NODE.plugin, **fields))


def device_plugin(**fields: object) -> AllFacts:
    return change("node", device_plugin=replace(NODE.device_plugin, **fields))


def network(**fields: object) -> AllFacts:
    return change("config", networks=(replace(NETWORK, **fields),))


def record(**fields: object) -> AllFacts:
    return change("state", records=(replace(RECORD, **fields),))


def folder(**fields: object) -> AllFacts:
    return change("state", folders=(replace(FOLDER, **fields),))


def case(check: str, facts: AllFacts, status: str, text: str, hint: str = "") -> Case:
    return Case(check=check, facts=facts, status=status, text=text, hint=hint)
