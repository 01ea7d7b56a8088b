"""What a check is: an id, what must be right, what to do, and a function of the facts. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor.report import FAIL, NONE, NOTE, OK, SKIP, WARN, Finding
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from ib_sriov_cni.core.values import PortReport, VfConfig
    from ib_sriov_cni.doctor.facts import AllFacts, ConfigFacts, HcaFacts, NodeFacts, PortFacts, SmAnswer, StateFacts

    T = TypeVar("T")


class Outcome(Value):
    """What a check found about one thing."""

    status: str
    text: str
    hint: str = ""


def ok(text: str) -> Outcome:
    """Say that it is right."""
    return Outcome(status=OK, text=text)


def note(text: str, hint: str = "") -> Outcome:
    """Say that it is right, and worth knowing."""
    return Outcome(status=NOTE, text=text, hint=hint)


def warn(text: str, hint: str) -> Outcome:
    """Say what is left over or will hurt some."""
    return Outcome(status=WARN, text=text, hint=hint)


def fail(text: str, hint: str) -> Outcome:
    """Say what is wrong."""
    return Outcome(status=FAIL, text=text, hint=hint)


def skip(text: str, hint: str = "") -> Outcome:
    """Say what could not be seen, and why."""
    return Outcome(status=SKIP, text=text, hint=hint)


class Unseen(Exception):
    """A topic that a check needs could not be read."""


class Seen:
    """The facts as checks use them: a topic that could not be read ends the check (Unseen)."""

    def __init__(self, facts: AllFacts) -> None:
        self.facts = facts

    def _get(self, topic: str, found: T | None) -> T:
        if found is None:
            raise Unseen(self.facts.unseen.get(topic, "it was not read"))
        return found

    @property
    def hca(self) -> HcaFacts:
        """HCAs and modules."""
        return self._get("hca", self.facts.hca)

    @property
    def ports(self) -> dict[str, PortFacts]:
        """Ports by RDMA device."""
        return self._get("ports", self.facts.ports)

    @property
    def vf_configs(self) -> dict[str, dict[int, VfConfig]]:
        """What PFs say of their VFs."""
        return self._get("vf_configs", self.facts.vf_configs)

    @property
    def sm(self) -> dict[str, SmAnswer]:
        """Answers of subnet managers by the PF's RDMA device."""
        return self._get("sm", self.facts.sm)

    @property
    def verbs(self) -> dict[str, PortReport | str]:
        """Devices that were opened."""
        return self._get("verbs", self.facts.verbs)

    @property
    def config(self) -> ConfigFacts:
        """Configurations."""
        return self._get("config", self.facts.config)

    @property
    def known_config(self) -> ConfigFacts:
        """The same for checks that have nothing to say if no configuration could be read."""
        if self.config.unread and not self.config.networks:
            raise Unseen("configurations are for root to read here")
        return self.config

    @property
    def state(self) -> StateFacts:
        """Records, leases, locks."""
        return self._get("state", self.facts.state)

    @property
    def node(self) -> NodeFacts:
        """Kernel, programs, kubelet."""
        return self._get("node", self.facts.node)


class Check(Value):
    """One check. `advice` says, for people, what it looks at and what to do; it stands in docs/doctor.md."""

    id: str
    title: str
    advice: str
    look: Callable[[Seen], Iterator[Outcome]]

    def run(self, facts: AllFacts) -> list[Finding]:
        """Give its findings, at least one. No fault of a check ends the examination."""
        outcomes: list[Outcome] = []
        try:
            outcomes += self.look(Seen(facts))
        except Unseen as reason:
            outcomes.append(skip(f"not seen: {reason}"))
        except Exception as fault:  # noqa: BLE001  # half a node at three in the morning has shapes nobody thought of
            outcomes.append(skip(f"this check failed itself: {type(fault).__name__}: {fault}", "report it"))
        if not outcomes:
            outcomes.append(Outcome(status=NONE, text="nothing to look at"))
        return [Finding(check=self.id, status=each.status, text=each.text, hint=each.hint) for each in outcomes]


class Checks:
    """The checks of one module, in the order in which they stand there."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def add(
        self, identity: str, title: str, advice: str
    ) -> Callable[[Callable[[Seen], Iterator[Outcome]]], Callable[[Seen], Iterator[Outcome]]]:
        """Register a check; a decorator."""

        def register(look: Callable[[Seen], Iterator[Outcome]]) -> Callable[[Seen], Iterator[Outcome]]:
            self.all.append(Check(id=identity, title=title, advice=advice, look=look))
            return look

        return register
