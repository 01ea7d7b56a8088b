"""What the agent tells Prometheus: every metric there is, in one place; docs/agent.md lists them.

What a pass finds is shown as a whole: a scrape sees the facts of one pass, never half of the next one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ib_sriov_cni import __version__

# Seconds. A CNI call lasts from some tens of milliseconds (DEL) to a rebind or an awaited port.
CALL_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
PASS_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)

# What each pass finds: name -> (help, labels).
FACTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ib_sriov_pf_info": ("1 for each PF; its names.", ("pf", "netdev", "rdma", "driver")),
    "ib_sriov_vfs": (
        "VFs of a PF by state: free, in_use (a pod has it) or unhealthy (no driver, no devices, no usable GUID).",
        ("pf", "state"),
    ),
    "ib_sriov_port_state": (
        "State of the InfiniBand port of a PF or VF: 1 DOWN, 2 INIT, 3 ARMED, 4 ACTIVE.",
        ("pf", "device", "kind", "rdma"),
    ),
    "ib_sriov_attachments": (
        "Attachments of a network by state: live, adding (ADD is on its way), dead (waits for its release), hidden.",
        ("network", "state"),
    ),
    "ib_sriov_attachments_differing": (
        "Live attachments that are not as their ADD left them, and were not repaired.",
        ("network",),
    ),
    "ib_sriov_damaged_records": ("Records that were set aside because they could not be read.", ()),
    "ib_sriov_leases": (
        "Addresses of a range set of the bundled host-local on this node by state: used or free.",
        ("network", "range", "state"),
    ),
}

Samples = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]
"""Name to the samples of that metric: label values in their order, and the value."""


class Metrics:
    """The agent's registry. Counters are counted where things happen, facts are shown pass by pass."""

    def __init__(self, *, log: bool = True) -> None:
        """`log`: the plugin's log is read; what comes of it is left out otherwise."""
        self.registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs has no annotations
        ProcessCollector(registry=self.registry)
        self._facts = _Facts()
        self.registry.register(self._facts)
        registry = self.registry
        self.call_seconds = Histogram(
            "ib_sriov_call_duration_seconds",
            "Duration of CNI calls that ended, well or not, from the plugin's log.",
            ["command"],
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self.call_failures = Counter(
            "ib_sriov_call_failures",
            "CNI calls that ended with an error, by its code (docs/troubleshooting.md), from the plugin's log.",
            ["command", "code"],
            registry=registry,
        )
        self.log_readable = Gauge(
            "ib_sriov_log_readable",
            "1 if the plugin's log file can be read, else 0; absent without --log-file.",
            registry=registry if log else None,
        )
        self.releases = Counter(
            "ib_sriov_agent_releases", "Dead attachments that the agent has released.", ["network"], registry=registry
        )
        self.release_failures = Counter(
            "ib_sriov_agent_release_failures",
            "Releases that failed, by code; they are tried again.",
            ["code"],
            registry=registry,
        )
        self.repairs = Counter(
            "ib_sriov_agent_repairs", "Repairs of live attachments that were done.", ["kind"], registry=registry
        )
        self.repair_failures = Counter(
            "ib_sriov_agent_repair_failures", "Repairs that failed, by code.", ["kind", "code"], registry=registry
        )
        self.events = Counter(
            "ib_sriov_agent_events",
            "Kubernetes events by what became of them: posted, failed or dropped.",
            ["result"],
            registry=registry,
        )
        self.pass_seconds = Histogram(
            "ib_sriov_agent_pass_duration_seconds",
            "Duration of the agent's passes over the node.",
            buckets=PASS_BUCKETS,
            registry=registry,
        )
        self.last_pass = Gauge(
            "ib_sriov_agent_last_pass_timestamp_seconds",
            "When the last pass ended, Unix time; 0 before the first.",
            registry=registry,
        )
        self.errors = Counter(
            "ib_sriov_agent_errors",
            "Faults inside a pass, by the part that failed; the others went on.",
            ["part"],
            registry=registry,
        )
        info = Gauge("ib_sriov_agent_info", "1; the agent's version.", ["version"], registry=registry)
        info.labels(__version__).set(1)

    def show(self, samples: Samples) -> None:
        """Replace what the last pass had found."""
        self._facts.samples = dict(samples)

    def names(self) -> dict[str, str]:
        """Give the names of all our metrics as a scrape has them, without the endings of histograms, and their help."""
        found = {}
        for family in self.registry.collect():
            if family.name.startswith("ib_sriov_"):
                found[family.name + ("_total" if family.type == "counter" else "")] = family.documentation
        return found | {name: text for name, (text, _) in FACTS.items()}


class _Facts(Collector):
    """Shows the samples of one pass."""

    def __init__(self) -> None:
        self.samples: Samples = {}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in FACTS.items()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        samples = self.samples  # one pass's, whatever comes in the meantime
        for name, (text, labels) in FACTS.items():
            if name in samples:
                family = GaugeMetricFamily(name, text, labels=labels)
                for values, number in samples[name]:
                    family.add_metric(values, number)
                yield family
