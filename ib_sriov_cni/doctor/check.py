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
    """Return an outcome for something that is right."""
    return Outcome(status=OK, text=text)


def note(text: str, hint: str = "") -> Outcome:
    """Return an outcome for something that is right and worth knowing."""
    return Outcome(status=NOTE, text=text, hint=hint)


def warn(text: str, hint: str) -> Outcome:
    """Return an outcome for something that is left over, or that will affect some pods."""
    return Outcome(status=WARN, text=text, hint=hint)


def fail(text: str, hint: str) -> Outcome:
    """Return an outcome for something that is wrong."""
    return Outcome(status=FAIL, text=text, hint=hint)


def skip(text: str, hint: str = "") -> Outcome:
    """Return an outcome for something that could not be checked; the text says why."""
    return Outcome(status=SKIP, text=text, hint=hint)


class TopicUnread(Exception):
    """A topic that a check needs could not be read."""


class Facts:
    """The facts as checks use them: asking for a topic that could not be read ends the check (TopicUnread)."""

    def __init__(self, facts: AllFacts) -> None:
        self.all = facts

    def _get(self, topic: str, found: T | None) -> T:
        if found is None:
            raise TopicUnread(self.all.unread.get(topic, "it was not read"))
        return found

    @property
    def hca(self) -> HcaFacts:
        """HCAs and modules."""
        return self._get("hca", self.all.hca)

    @property
    def ports(self) -> dict[str, PortFacts]:
        """Ports by RDMA device."""
        return self._get("ports", self.all.ports)

    @property
    def vf_configs(self) -> dict[str, dict[int, VfConfig]]:
        """What each PF says of its VFs, by the PF's PCI address and the VF index."""
        return self._get("vf_configs", self.all.vf_configs)

    @property
    def sm(self) -> dict[str, SmAnswer]:
        """Answers of subnet managers, by the PF's RDMA device."""
        return self._get("sm", self.all.sm)

    @property
    def verbs(self) -> dict[str, PortReport | str]:
        """RDMA devices that were opened, or the reason why one could not be."""
        return self._get("verbs", self.all.verbs)

    @property
    def config(self) -> ConfigFacts:
        """Configurations."""
        return self._get("config", self.all.config)

    @property
    def readable_config(self) -> ConfigFacts:
        """Configurations, for checks that have nothing to say if no configuration could be read."""
        if self.config.unread and not self.config.networks:
            raise TopicUnread("only root can read the configurations on this node")
        return self.config

    @property
    def state(self) -> StateFacts:
        """Records, leases, locks."""
        return self._get("state", self.all.state)

    @property
    def node(self) -> NodeFacts:
        """Kernel, programs, kubelet."""
        return self._get("node", self.all.node)


class Check(Value):
    """One check. `advice` says what it looks at and what to do; docs/doctor.md and `--explain` show it."""

    id: str
    title: str
    advice: str
    function: Callable[[Facts], Iterator[Outcome]]

    def run(self, facts: AllFacts) -> list[Finding]:
        """Return the check's findings, at least one. An exception in a check becomes a finding."""
        outcomes: list[Outcome] = []
        try:
            outcomes += self.function(Facts(facts))
        except TopicUnread as reason:
            outcomes.append(skip(f"not checked: {reason}"))
        except Exception as fault:  # noqa: BLE001  # a half-broken node has states that nobody thought of
            outcomes.append(skip(f"this check itself failed: {type(fault).__name__}: {fault}", "report this as a bug"))
        if not outcomes:
            outcomes.append(Outcome(status=NONE, text="nothing to check"))
        return [Finding(check=self.id, status=each.status, text=each.text, hint=each.hint) for each in outcomes]


class Checks:
    """The checks of one module, in the order in which it defines them."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def add(
        self, check_id: str, title: str, advice: str
    ) -> Callable[[Callable[[Facts], Iterator[Outcome]]], Callable[[Facts], Iterator[Outcome]]]:
        """Return a decorator that registers a function as a check."""

        def register(function: Callable[[Facts], Iterator[Outcome]]) -> Callable[[Facts], Iterator[Outcome]]:
            self.all.append(Check(id=check_id, title=title, advice=advice, function=function))
            return function

        return register
