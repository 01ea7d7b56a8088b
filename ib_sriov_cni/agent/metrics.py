"""The agent's metrics for Prometheus, in one table, which docs/agent.md repeats.

The facts that a pass found are published together: a scrape never sees a mixture of two passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ib_sriov_cni import __version__
from ipam.protocol.bounds import shorten

# Seconds. A CNI call takes from some tens of milliseconds (DEL) to many seconds (a rebind, a slow port).
CALL_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0)
PASS_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)


class Metric(NamedTuple):
    """One row of the table."""

    kind: str  # fact (a gauge that each pass replaces), counter, gauge or histogram
    labels: tuple[str, ...]
    text: str


TABLE = {
    "ib_sriov_pf_info": Metric(
        "fact", ("pf", "netdev", "rdma", "driver"), "Always 1; the labels have the names of each PF."
    ),
    "ib_sriov_vfs": Metric(
        "fact",
        ("pf", "state"),
        "VFs by state: free, in_use, busy (a call is working on it), leftover (of a dead attachment), unhealthy.",
    ),
    "ib_sriov_port_state": Metric(
        "fact",
        ("pf", "device", "kind", "rdma"),
        "State of the port of a PF (kind pf) or a VF (vf), also of one in a pod: 1 DOWN, 2 INIT, 3 ARMED, 4 ACTIVE.",
    ),
    "ib_sriov_attachments": Metric(
        "fact",
        ("network", "state"),
        "Attachments by state: live, adding (its ADD is running), dead (will be released), hidden.",
    ),
    "ib_sriov_attachments_differing": Metric(
        "fact", ("network",), "Attachments that are not as their ADD left them, and that the agent does not repair."
    ),
    "ib_sriov_damaged_records": Metric("fact", (), "Files in the state directory that could not be decoded."),
    "ib_sriov_leases": Metric(
        "fact",
        ("network", "range", "state"),
        "Addresses of a range set of the bundled host-local on this node by state: used, free.",
    ),
    "ib_sriov_call_duration_seconds": Metric(
        "histogram", ("command",), "Duration of finished CNI calls, successful or not; from the plugin's log."
    ),
    "ib_sriov_call_failures_total": Metric(
        "counter", ("command", "code"), "CNI calls that ended with an error, by its code; from the plugin's log."
    ),
    "ib_sriov_log_readable": Metric(
        "gauge", (), "1 if the plugin's log can be read, else 0; absent without --log-file."
    ),
    "ib_sriov_agent_info": Metric("gauge", ("version",), "Always 1; the label has the agent's version."),
    "ib_sriov_agent_releases_total": Metric("counter", ("network",), "Dead attachments that were released."),
    "ib_sriov_agent_release_failures_total": Metric("counter", ("code",), "Releases that failed; they are retried."),
    "ib_sriov_agent_repairs_total": Metric(
        "counter", ("kind",), "Repairs that were made: link-state, address, route, owner, disown, stray-file."
    ),
    "ib_sriov_agent_repair_failures_total": Metric(
        "counter", ("kind", "code"), "Repairs that failed; they are retried."
    ),
    "ib_sriov_agent_events_total": Metric(
        "counter", ("result",), "Kubernetes events: posted, retried (each try that failed), failed, dropped."
    ),
    "ib_sriov_agent_http_refusals_total": Metric(
        "counter",
        ("reason",),
        "HTTP requests not answered as asked: malformed, large, slow, crowded (closed to make room), failed.",
    ),
    "ib_sriov_agent_pass_duration_seconds": Metric(
        "histogram", (), "Duration of a pass over the node, releases and repairs included."
    ),
    "ib_sriov_agent_last_pass_timestamp_seconds": Metric("gauge", (), "When the last pass ended, Unix time."),
    "ib_sriov_agent_errors_total": Metric(
        "counter", ("part",), "Faults during a pass, by the part that failed; the other parts went on."
    ),
}
FACTS = {name: metric for name, metric in TABLE.items() if metric.kind == "fact"}

LABEL_BYTES = 256  # of a label value; names of networks and interfaces have at most 255

Samples = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]
"""Metric name to its samples; each has the label values in the table's order, and the value."""


def label(text: str) -> str:
    """Return a label value: names come from files and interfaces, which may have any bytes and any length."""
    return shorten(text.encode(errors="backslashreplace").decode(), LABEL_BYTES)


class Metrics:
    """The agent's registry. Counters count as things happen; facts are replaced by each pass."""

    def __init__(self, *, log: bool = True) -> None:
        """`log`: the plugin's log is read, so export whether it is readable."""
        self.registry = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        ProcessCollector(registry=self.registry)
        self._facts = _Facts()
        self.registry.register(self._facts)
        self.call_seconds = self._histogram("ib_sriov_call_duration_seconds", CALL_BUCKETS)
        self.call_failures = self._counter("ib_sriov_call_failures_total")
        self.log_readable = self._gauge("ib_sriov_log_readable", exported=log)
        self.releases = self._counter("ib_sriov_agent_releases_total")
        self.release_failures = self._counter("ib_sriov_agent_release_failures_total")
        self.repairs = self._counter("ib_sriov_agent_repairs_total")
        self.repair_failures = self._counter("ib_sriov_agent_repair_failures_total")
        self.events = self._counter("ib_sriov_agent_events_total")
        self.http_refusals = self._counter("ib_sriov_agent_http_refusals_total")
        self.pass_seconds = self._histogram("ib_sriov_agent_pass_duration_seconds", PASS_BUCKETS)
        self.last_pass = self._gauge("ib_sriov_agent_last_pass_timestamp_seconds")
        self.errors = self._counter("ib_sriov_agent_errors_total")
        self._gauge("ib_sriov_agent_info").labels(__version__).set(1)

    def _counter(self, name: str) -> Counter:
        return Counter(name, TABLE[name].text, TABLE[name].labels, registry=self.registry)

    def _gauge(self, name: str, *, exported: bool = True) -> Gauge:
        return Gauge(name, TABLE[name].text, TABLE[name].labels, registry=self.registry if exported else None)

    def _histogram(self, name: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, TABLE[name].text, TABLE[name].labels, buckets=buckets, registry=self.registry)

    def publish(self, samples: Samples) -> None:
        """Replace the facts of the last pass."""
        self._facts.samples = dict(samples)


class _Facts(Collector):
    """Exports the samples of one pass."""

    def __init__(self) -> None:
        self.samples: Samples = {}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(name, fact.text, labels=fact.labels) for name, fact in FACTS.items()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        samples = self.samples  # of one pass, even if publish() is called meanwhile
        for name, fact in FACTS.items():
            if name in samples:
                family = GaugeMetricFamily(name, fact.text, labels=fact.labels)
                for values, number in samples[name]:
                    family.add_metric([label(text) for text in values], number)
                yield family
