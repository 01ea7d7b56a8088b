"""A cluster with a scheduler, a controller-manager and flannel, where the plugin comes by the project's DaemonSet."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.hca import Host
from tests.cluster.kubernetes_cluster import REGISTRY, Cluster
from tests.cluster.machine import PROJECT
from tests.lab.client_programs.node import program
from tests.lab.commands import run, wait

IMAGE = f"{REGISTRY}/ib-sriov"
TAG = "1"
MACHINES = ("x86_64", "aarch64")
BUILT = f"ib-sriov-image-{MACHINES[0]}.tar"  # for the type of the nodes
OVERLAYS = {"shared": "plain", "exclusive": "isolation"}
SYSTEM = "kube-system"
DAEMONSET = "daemonset/ib-sriov"
LABEL = "app.kubernetes.io/name=ib-sriov"
# What flanneld asks, as in its own manifest.
FLANNELD = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "flanneld"},
        "rules": [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "flanneld"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "flanneld"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "flanneld"}],
    },
]


def tagged_image(built: Path, path: Path, tag: str) -> None:
    """Write an archive that packaging/image has made again, with the image under our registry's name."""
    work = path.with_suffix(".parts")
    work.mkdir()
    run(["tar", "-xf", str(built), "-C", str(work)])
    manifest = work / "manifest.json"
    (image,) = json.loads(manifest.read_text())
    manifest.write_text(json.dumps([{**image, "RepoTags": [f"{IMAGE}:{tag}"]}]))
    run(["tar", "-cf", str(path), "-C", str(work), "."])
    shutil.rmtree(work)


def make_other_image(folder: Path, tag: str) -> tuple[Path, str]:
    """An image whose program is another file that does the same; the archive, and the program's SHA-256."""
    dist = folder / "dist"
    dist.mkdir()
    for name in ("LICENSES.txt", *(f"ib-sriov-{each}{end}" for each in MACHINES for end in ("", ".cdx.json"))):
        shutil.copy(PROJECT / "dist" / name, dist)
    for machine in MACHINES:
        with zipfile.ZipFile(dist / f"ib-sriov-{machine}", "a") as archive:
            archive.comment = b"another build"
    run([str(PROJECT / "packaging/image"), str(dist)], timeout=300)
    path = folder / f"ib-sriov-{tag}.tar"
    tagged_image(dist / BUILT, path, tag)
    return path, hashlib.sha256((dist / f"ib-sriov-{MACHINES[0]}").read_bytes()).hexdigest()


class FullCluster(Cluster):
    """`start` and `deploy` are docs/quickstart.md up to its last step."""

    full = True
    disk_gib = 6

    def start(self, say: Callable[[str], None] = lambda _: None) -> None:
        super().start(say)
        for each in self.kubectl.get("nodes")["items"]:
            via = next(part["address"] for part in each["status"]["addresses"] if part["type"] == "InternalIP")
            self.route(each["spec"]["podCIDR"], via)
        self.deploy()
        say("DaemonSet up")

    def share(self) -> None:
        super().share()
        archive = self.folder / "ib-sriov.tar"
        tagged_image(PROJECT / "dist" / BUILT, archive, TAG)
        for each in self.nodes:
            shutil.copy(archive, each.machine.shared)
            (each.machine.shared / "flanneld.kubeconfig").write_text(self.kubectl.kubeconfig("flanneld"))

    def settings(self, host: Host) -> dict[str, Any]:
        settings = super().settings(host)
        del settings["routes"]
        return {**settings, "images": ["ib-test.tar", "ib-sriov.tar"], "plugin": False, "disk": True}

    def define_network(self) -> None:
        """The overlay has it; before there are nodes, flanneld gets its rights instead."""
        if self.deployed:
            self.deploy()
        else:
            self.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": FLANNELD}))

    def clear(self) -> None:
        """Delete what tests have made in the namespace default, and restore the nodes' knobs and their readiness."""
        for each in self.nodes:
            self.kubectl.run(["uncordon", each.machine.name])
        kinds = "deployments,replicasets,pods"
        self.kubectl.run(["delete", kinds, "--all", "--grace-period=1", "--timeout=200s"], timeout=240)
        for each in self.nodes:
            each.restore_knobs()

    def import_image(self, archive: Path) -> None:
        """Give an image to the nodes' containerd."""
        for each in self.nodes:
            shutil.copy(archive, each.machine.shared)
            each.machine.run(f"ctr -n k8s.io images import /run/out/{archive.name} && sync", limit=300)

    # ---- the DaemonSet

    @property
    def manifests(self) -> Path:
        """A copy of packaging/kubernetes, whose overlays may be edited as the page says."""
        return self.folder / "kubernetes"

    @property
    def deployed(self) -> bool:
        return self.manifests.exists()

    def deploy(self, tag: str = TAG, overlay: str = "") -> None:
        """Name the image in an overlay (that of the RDMA namespace mode) and apply it, as docs/quickstart.md does."""
        shutil.rmtree(self.manifests, ignore_errors=True)
        shutil.copytree(PROJECT / "packaging/kubernetes", self.manifests)
        folder = self.manifests / "overlays" / (overlay or OVERLAYS[self.mode])
        run(["env", "-C", str(folder), program("kustomize"), "edit", "set", "image", f"ib-sriov={IMAGE}:{tag}"])
        applied = ["apply", "-k", str(folder)]
        # a definition may just be getting known
        assert wait(lambda: self.kubectl.run(applied, check=False).returncode == 0, 60, 0.5), self.kubectl.run(applied)
        self.wait_until_rolled_out()

    def wait_until_rolled_out(self) -> None:
        def is_out() -> bool:
            words = ["-n", SYSTEM, "rollout", "status", DAEMONSET, "--timeout=2s"]
            return self.kubectl.run(words, check=False).returncode == 0

        # one node after another, and an emulated one takes a minute
        self.wait_for("the DaemonSet is rolled out", is_out, timeout=600)

    def agents(self) -> dict[str, str]:
        """The agents' pods by node."""
        items = self.kubectl.get("pods", "-n", SYSTEM, "-l", LABEL)["items"]
        return {each["spec"]["nodeName"]: each["metadata"]["name"] for each in items}

    def restarts(self, node: str) -> int:
        """How often a node's agent was started again; -1 while it is not ready."""
        (status,) = self.kubectl.get("pod", "-n", SYSTEM, self.agents()[node])["status"]["containerStatuses"]
        return int(status["restartCount"]) if status["ready"] else -1

    def in_agent(self, node: str, *words: str) -> str:
        """What a command prints that `kubectl exec` runs in a node's agent."""
        pod = self.agents()[node]
        return self.kubectl.run(["-n", SYSTEM, "exec", pod, "-c", "agent", "--", *words]).stdout
