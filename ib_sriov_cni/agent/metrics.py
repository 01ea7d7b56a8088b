"""What the agent tells Prometheus: every metric there is, in one table, which docs/agent.md shows.

What a pass finds is shown as a whole: a scrape sees the facts of one pass, never half of the next one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ib_sriov_cni import __version__

# Seconds. A CNI call lasts from some tens of milliseconds (DEL) to a rebind or an awaited port.
CALL_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
PASS_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)


class Metric(NamedTuple):
    """One row of the table."""

    kind: str  # fact: a gauge that each pass shows anew; else counter, gauge or histogram
    labels: tuple[str, ...]
    text: str


TABLE = {
    "ib_sriov_pf_info": Metric("fact", ("pf", "netdev", "rdma", "driver"), "1 for each PF, with its names."),
    "ib_sriov_vfs": Metric(
        "fact",
        ("pf", "state"),
        "VFs by state: free, in_use, busy (somebody is at work on it), leftover (of a dead attachment), unhealthy.",
    ),
    "ib_sriov_port_state": Metric(
        "fact",
        ("pf", "device", "kind", "rdma"),
        "State of the port of a PF (kind pf) or a VF (vf), also of one in a pod: 1 DOWN, 2 INIT, 3 ARMED, 4 ACTIVE.",
    ),
    "ib_sriov_attachments": Metric(
        "fact",
        ("network", "state"),
        "Attachments by state: live, adding (its ADD is on its way), dead (waits for its release), hidden.",
    ),
    "ib_sriov_attachments_differing": Metric(
        "fact", ("network",), "Attachments that are not as their ADD left them, and that the agent does not repair."
    ),
    "ib_sriov_damaged_records": Metric("fact", (), "Files in the state directory that could not be understood."),
    "ib_sriov_leases": Metric(
        "fact",
        ("network", "range", "state"),
        "Addresses of a range set of the bundled host-local on this node by state: used, free.",
    ),
    "ib_sriov_call_duration_seconds": Metric(
        "histogram", ("command",), "Duration of the CNI calls that ended, well or not; from the plugin's log."
    ),
    "ib_sriov_call_failures_total": Metric(
        "counter", ("command", "code"), "CNI calls that ended with an error, by its code; from the plugin's log."
    ),
    "ib_sriov_log_readable": Metric("gauge", (), "1 if the plugin's log can be read, else 0; none without --log-file."),
    "ib_sriov_agent_info": Metric("gauge", ("version",), "1, with the agent's version."),
    "ib_sriov_agent_releases_total": Metric("counter", ("network",), "Dead attachments that were released."),
    "ib_sriov_agent_release_failures_total": Metric("counter", ("code",), "Releases that failed; tried again later."),
    "ib_sriov_agent_repairs_total": Metric(
        "counter", ("kind",), "Repairs that were done: link-state, address, route, owner, disown, leftover."
    ),
    "ib_sriov_agent_repair_failures_total": Metric(
        "counter", ("kind", "code"), "Repairs that failed; tried again later."
    ),
    "ib_sriov_agent_events_total": Metric("counter", ("result",), "Kubernetes events: posted, failed, dropped."),
    "ib_sriov_agent_pass_duration_seconds": Metric("histogram", (), "Duration of a look at the node with its acts."),
    "ib_sriov_agent_last_pass_timestamp_seconds": Metric("gauge", (), "When the last look ended, Unix time."),
    "ib_sriov_agent_errors_total": Metric(
        "counter", ("part",), "Faults inside a look, by the part that failed; the other parts went on."
    ),
}
FACTS = {name: metric for name, metric in TABLE.items() if metric.kind == "fact"}

Samples = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]
"""Name to the samples of that metric: label values in their order, and the value."""


class Metrics:
    """The agent's registry. Counters are counted where things happen, facts are shown pass by pass."""

    def __init__(self, *, log: bool = True) -> None:
        """`log`: the plugin's log is read, and its readability shown."""
        self.registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs has no annotations
        ProcessCollector(registry=self.registry)
        self._facts = _Facts()
        self.registry.register(self._facts)
        self.call_seconds = self._histogram("ib_sriov_call_duration_seconds", CALL_BUCKETS)
        self.call_failures = self._counter("ib_sriov_call_failures_total")
        self.log_readable = self._gauge("ib_sriov_log_readable", shown=log)
        self.releases = self._counter("ib_sriov_agent_releases_total")
        self.release_failures = self._counter("ib_sriov_agent_release_failures_total")
        self.repairs = self._counter("ib_sriov_agent_repairs_total")
        self.repair_failures = self._counter("ib_sriov_agent_repair_failures_total")
        self.events = self._counter("ib_sriov_agent_events_total")
        self.pass_seconds = self._histogram("ib_sriov_agent_pass_duration_seconds", PASS_BUCKETS)
        self.last_pass = self._gauge("ib_sriov_agent_last_pass_timestamp_seconds")
        self.errors = self._counter("ib_sriov_agent_errors_total")
        self._gauge("ib_sriov_agent_info").labels(__version__).set(1)

    def _counter(self, name: str) -> Counter:
        return Counter(name, TABLE[name].text, TABLE[name].labels, registry=self.registry)

    def _gauge(self, name: str, *, shown: bool = True) -> Gauge:
        return Gauge(name, TABLE[name].text, TABLE[name].labels, registry=self.registry if shown else None)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, TABLE[name].text, TABLE[name].labels, buckets=buckets, registry=self.registry)

    def show(self, samples: Samples) -> None:
        """Replace what the last pass had found."""
        self._facts.samples = dict(samples)


class _Facts(Collector):
    """Shows the samples of one pass."""

    def __init__(self) -> None:
        self.samples: Samples = {}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(name, fact.text, labels=fact.labels) for name, fact in FACTS.items()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        samples = self.samples  # one pass's, whatever comes in the meantime
        for name, fact in FACTS.items():
            if name in samples:
                family = GaugeMetricFamily(name, fact.text, labels=fact.labels)
                for values, number in samples[name]:
                    family.add_metric(values, number)
                yield family
