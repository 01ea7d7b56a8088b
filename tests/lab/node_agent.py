"""The node agent as tests in the guest handle it: the process, its metrics, and pods that it knows by name."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.lab.cni import PROJECT
from tests.lab.commands import wait
from tests.lab.pod import Pod
from tests.lab.rig import Rig, at_once, guid_of

PORT = 9743
LOG = Path("/tmp/agent-calls.log")
LONG = 90  # seconds that a slow machine may take for what is awaited

Metrics = dict[tuple[str, ...], float]


class Endpoint:
    """What a node agent answers over HTTP; `log` is the file that its standard error goes to."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def said(self) -> str:
        return self.log.read_text()

    def ask(self, path: str) -> tuple[int, str]:
        """(0, "") while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()
        except OSError:
            return 0, ""

    def metrics(self) -> Metrics:
        """Sample name and label values (in the labels' order of the alphabet) to value."""
        found: Metrics = {}
        for family in text_string_to_metric_families(self.ask("/metrics")[1]):
            for sample in family.samples:
                values = [value for _, value in sorted(sample.labels.items())]
                found[sample.name, *values] = sample.value
        return found

    def metric(self, *name: str) -> float | None:
        return self.metrics().get(name)

    def await_ready(self) -> None:
        assert wait(lambda: self.ask("/readyz")[0] == 200, LONG), self.said()

    def passes(self, more: int = 2) -> None:
        """Wait until it has looked at the node so many times more, from beginning to end."""
        name = ("ib_sriov_agent_pass_duration_seconds_count",)
        seen = self.metrics()[name]
        assert wait(lambda: self.metrics().get(name, 0) >= seen + more, LONG), self.said()

    def until(self, value: float, *name: str) -> None:
        found = wait(lambda: self.metric(*name) == value, LONG)
        assert found, f"{name} is {self.metric(*name)}, not {value}:\n{self.said()}"


class Agent(Endpoint):
    """`ib-sriov agent` as a process."""

    def __init__(self, *options: str, env: Mapping[str, str] | None = None, wrap: Sequence[str] = ()) -> None:
        super().__init__(Path("/tmp/agent.log"))
        command = [*wrap, sys.executable, "-m", "ib_sriov_cni", "agent", "--interval", "1", *options]
        environ = {**os.environ, **(env or {})}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=PROJECT, env=environ, stderr=log)

    def ready(self) -> Agent:
        self.await_ready()
        return self

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=LONG)


class Agents:
    """Starts node agents."""

    def __init__(self) -> None:
        self._started: list[Agent] = []

    def __call__(self, *options: str, env: Mapping[str, str] | None = None, wrap: Sequence[str] = ()) -> Agent:
        self._started.append(Agent(*options, env=env, wrap=wrap))
        return self._started[-1]

    def end_all(self) -> None:
        for agent in self._started:
            if agent.process.poll() is None:
                agent.process.kill()
                agent.process.wait()


def running_agents() -> Iterator[Agents]:
    """For fixtures: agents that end with the test."""
    made = Agents()
    yield made
    made.end_all()


def settings(vf: int) -> dict[str, Any]:
    """A GUID of its own, so that a release has everything to put back."""
    return {"guid": guid_of(vf), "link_state": "enable", "logFile": str(LOG)}


def add(rig: Rig, vf: int, **more: Any) -> tuple[Pod, Any]:
    """Attach a pod that the runtime names; the pod and the result."""
    pod = rig.pod()
    conf = rig.conf(vf, **settings(vf), **more)
    args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=train;K8S_POD_NAME={pod.name};K8S_POD_UID=u-{pod.name}"
    added = rig.cni("ADD", pod, conf, env={"CNI_ARGS": args})
    assert added.status == 0, added
    return pod, added.out


def add_all(rig: Rig, vfs: Sequence[int]) -> list[tuple[Pod, Any]]:
    return at_once([lambda vf=vf: add(rig, vf) for vf in vfs])


def delete(rig: Rig, pods: Mapping[int, Pod]) -> None:
    for vf, pod in pods.items():
        rig.delete(pod, vf, **settings(vf))
