"""A Kubernetes cluster in emulation: a control plane on the host, and two machines of the lab as its nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.control import ControlPlane
from tests.cluster.hca import Host
from tests.cluster.machine import PROJECT, Machine
from tests.cluster.parts import chosen
from tests.cluster.segment import Segment, address
from tests.lab.client_programs import image
from tests.lab.commands import run, wait
from tests.lab.snapshot import differences

RESOURCE = "nvidia.com/ib_vfs"
REGISTRY = "lab.local"
TEST_IMAGE = f"{REGISTRY}/ib-test:1"
NETWORKS = "packaging/kubernetes/networks"
DEVICES = "packaging/kubernetes/device-plugin/configmap.yaml"
PROGRAMS = (
    *("/usr/sbin/ip", "/usr/bin/ibv_devinfo", "/usr/bin/ib_write_bw", "/usr/bin/ibv_rc_pingpong"),
    *("/usr/lib/x86_64-linux-gnu/libibverbs", "/etc/libibverbs.d", "/usr/libexec/coreutils/libstdbuf.so"),
)
UP = "from tests.cluster.guest import node\nnode.up(**{settings!r})"
START_AGAIN = "from tests.cluster.guest import node\nnode.start_again(**{settings!r})"
SNAPSHOT = """
import json
from tests.lab.emulated_hca import Hca
from tests.lab.snapshot import host_snapshot
print(json.dumps(host_snapshot(Hca()).facts))
"""
# What Multus's own manifests give it.
MULTUS_RIGHTS: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "multus"},
            "rules": [
                {"apiGroups": ["k8s.cni.cncf.io"], "resources": ["*"], "verbs": ["*"]},
                {
                    "apiGroups": [""],
                    "resources": ["pods", "pods/status"],
                    "verbs": ["get", "list", "update", "watch"],
                },
                {
                    "apiGroups": ["", "events.k8s.io"],
                    "resources": ["events"],
                    "verbs": ["create", "patch", "update"],
                },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "multus"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "multus"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "multus"}],
        },
    ],
}
# For an API server that does not know apiextensions.k8s.io/v1 (before 1.16).
NETWORKS_OF_V1BETA1 = {
    "apiVersion": "apiextensions.k8s.io/v1beta1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "network-attachment-definitions.k8s.cni.cncf.io"},
    "spec": {
        "group": "k8s.cni.cncf.io",
        "version": "v1",
        "scope": "Namespaced",
        "names": {
            "plural": "network-attachment-definitions",
            "singular": "network-attachment-definition",
            "kind": "NetworkAttachmentDefinition",
            "shortNames": ["net-attach-def"],
        },
    },
}
KEPT = ("netdev cni0",)  # the bridge plugin's, from the node's first pod on


def device_configuration() -> str:
    """The device plugin's configuration in packaging/kubernetes, for the emulated HCA instead of a ConnectX."""
    text = (PROJECT / DEVICES).read_text()
    lines = text.partition("config.json: |\n")[2]
    return lines.replace('"15b3"', '"e1b0"').replace('"mlx5_core"', '"ib_qib"')


class Cluster:
    """`start` does all; `say` is told of each step that is done. What it is made of, the variable CLUSTER says."""

    full = False  # whether there are a scheduler and a controller-manager
    disk_gib = 0

    def __init__(self, folder: Path, *, nodes: int = 2, **knobs: Any) -> None:
        self.folder = folder
        self.parts = chosen()
        self.segment = Segment(nodes)
        numbers = range(1, nodes + 1)
        machines = [
            Machine(self.segment, number, folder, memory=2560, disk_gib=self.disk_gib, kernel=self.parts.kernel)
            for number in numbers
        ]
        # GUIDs zero, as a ConnectX's VFs have them: every pod costs a rebind
        self.nodes = [Host(each, machines=nodes, preset=False, **self.parts.knobs, **knobs) for each in machines]
        self.control: ControlPlane | None = None
        self.mode = "shared"

    @property
    def kubectl(self) -> ControlPlane:
        assert self.control is not None, "the cluster was not started"
        return self.control

    def start(self, say: Callable[[str], None] = lambda _: None) -> None:
        machines = [each.machine for each in self.nodes]
        names = [each.name for each in machines]
        self.control = ControlPlane(
            self.segment, self.folder / "control", nodes=names, parts=self.parts, full=self.full
        )
        self.share()
        for each in machines:
            each.start()
        self.kubectl.wait_until_ready()
        say("API server ready")
        self.kubectl.apply(self.definition())
        self.kubectl.apply(json.dumps(MULTUS_RIGHTS))
        self.define_network()
        for each in machines:
            each.wait_until_up()
        say("virtual machines up")
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.start_node, self.nodes))
        say("containerd, kubelet and device plugin run")
        self.wait_for("both nodes Ready", self.are_ready)
        nodes = self.kubectl.get("nodes")["items"]
        infos = [each["status"]["nodeInfo"] for each in nodes]
        runtimes = [each["containerRuntimeVersion"] for each in infos]
        assert all(each.startswith(f"containerd://{self.parts.containerd}.") for each in runtimes), runtimes
        say(f"nodes Ready: kubelet {infos[0]['kubeletVersion']}, {runtimes[0]}, Linux {infos[0]['kernelVersion']}")
        self.wait_for("VFs allocatable", lambda: self.allocatable() == [4] * len(self.nodes))
        say("VFs allocatable")

    def share(self) -> None:
        """Put what the nodes need where they see it."""
        built = image.make_image(
            self.folder / "ib-test.tar", name=TEST_IMAGE, files=image.with_libraries(PROGRAMS)
        )  # fmt: skip
        for each in self.nodes:
            shared = each.machine.shared
            shared.mkdir(parents=True, exist_ok=True)
            run(["cp", str(built), str(shared)])
            (shared / "kubeconfig").write_text(self.kubectl.kubeconfig(f"system:node:{each.machine.name}"))
            (shared / "multus.kubeconfig").write_text(self.kubectl.kubeconfig("multus"))
            (shared / "devices.json").write_text(device_configuration())
            self.route(f"10.244.{each.machine.number}.0/24", each.machine.address)

    def definition(self) -> str:
        """What tells the API server of networks."""
        if not self.parts.crd_v1:
            return json.dumps(NETWORKS_OF_V1BETA1)
        done = run([str(PROJECT / "tests/tools/crd"), "--built", "NetworkAttachmentDefinition"])
        return Path(done.stdout.strip()).read_text()

    def define_network(self) -> None:
        """The network that suits the RDMA namespace mode; its definition may just be getting known."""
        folder = self.parts.network if self.mode == "shared" else "isolation"
        built = self.kubectl.run(["kustomize", f"{NETWORKS}/{folder}"]).stdout
        network = built.replace('"cniVersion": "1.0.0"', f'"cniVersion": "{self.parts.cni}"')

        def applied() -> str:
            return self.kubectl.run(["apply", "-f", "-"], check=False, stdin=network).stderr

        assert wait(lambda: not applied(), 60, 0.5), applied()

    def set_mode(self, mode: str) -> None:
        """Change the nodes' RDMA namespace mode, while they have no pods: the HCAs are loaded anew."""
        if mode == self.mode:
            return
        self.mode = mode
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda each: each.load(mode=mode), self.nodes))
        self.define_network()
        # what the API server knows lags behind
        offers = "grep ^offers /var/log/device-plugin.log | tail -n 1"
        self.wait_for(
            "the device plugins offer the VFs",
            lambda: [each.machine.output(offers) for each in self.nodes] == ["offers 4 of 4"] * len(self.nodes),
        )

    def route(self, pods: str, via: str) -> None:
        """Let the control plane reach pods of a node."""
        self.segment.ip(f"route replace {pods} via {via}")

    def start_node(self, host: Host) -> None:
        """The HCA, then all that a node has."""
        host.load(mode=self.mode)
        host.machine.python(UP.format(settings=self.settings(host)), limit=500)

    def settings(self, host: Host) -> dict[str, Any]:
        """Arguments of tests.cluster.guest.node.up."""
        others = [each.machine.number for each in self.nodes if each is not host]
        return {
            "name": host.machine.name,
            "number": host.machine.number,
            "address": host.machine.address,
            "routes": {other: address(other) for other in others},
            "parts": asdict(self.parts),
        }

    def start_programs(self, host: Host) -> None:
        """Start a node's containerd and kubelet again."""
        settings = {"name": host.machine.name, "address": host.machine.address, "parts": asdict(self.parts)}
        host.machine.python(START_AGAIN.format(settings=settings), limit=400)

    # ---- what there is

    def are_ready(self) -> bool:
        nodes = self.kubectl.get("nodes")["items"]
        ready = [
            condition["status"]
            for node in nodes
            for condition in node["status"].get("conditions", [])
            if condition["type"] == "Ready"
        ]
        return ready == ["True"] * len(self.nodes)

    def allocatable(self) -> list[int]:
        return [int(each["status"]["allocatable"].get(RESOURCE, 0)) for each in self.kubectl.get("nodes")["items"]]

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.get("pod", name)
        return found

    def are_running(self, *names: str) -> bool:
        return all(self.pod(name)["status"].get("phase") == "Running" for name in names)

    def events(self) -> str:
        """What the API server was told of pods, for the message of a failure."""
        done = self.kubectl.run(["get", "events", "--sort-by=.lastTimestamp"], check=False)
        return done.stdout[-3000:]

    def wait_for(self, what: str, condition: Callable[[], bool], timeout: float = 300) -> None:
        if not wait(condition, timeout, 0.5):
            logs = [each.machine.run("tail -n 8 /var/log/*.log", check=False).stdout for each in self.nodes]
            raise AssertionError("\n".join([f"not within {timeout:g} s: {what}", self.events(), *logs]))

    # ---- what is done

    def execute(self, pod: str, *words: str, timeout: float = 120) -> str:
        return self.kubectl.run(["exec", pod, "--", *words], timeout=timeout).stdout

    def delete(self, *pods: str) -> None:
        """Delete pods, and wait until they are gone."""
        self.kubectl.run(["delete", "pod", *pods, "--grace-period=1", "--timeout=200s"], timeout=240)

    def snapshots(self) -> list[dict[str, str]]:
        """The facts of tests.lab.snapshot of each node."""
        return [json.loads(each.machine.python(SNAPSHOT)) for each in self.nodes]

    def changes(self, before: list[dict[str, str]]) -> list[str]:
        """How the nodes differ from what they were, a line for each fact."""
        return [
            f"{host.machine.name}: {line}"
            for host, had, now in zip(self.nodes, before, self.snapshots(), strict=True)
            for line in differences(had, now)
            if not line.startswith(KEPT)
        ]

    def end(self) -> list[int]:
        """Stop everything; the lab's verdicts on the machines."""
        try:
            return [each.machine.end() for each in self.nodes]
        finally:
            if self.control is not None:
                self.control.end()
            self.segment.end()


C = TypeVar("C", bound=Cluster)


@contextmanager
def started(cluster: C) -> Iterator[C]:
    """A cluster that runs until the end of the block; then its machines must have had no fault."""
    try:
        cluster.start(lambda text: print(text, flush=True))
        yield cluster
    finally:
        verdicts = cluster.end()
    assert verdicts == [0] * len(cluster.nodes), "\n".join(each.machine.said() for each in cluster.nodes)
