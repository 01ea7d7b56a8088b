"""What Multus asks of a cluster, in miniature: pods, network attachment definitions, kubelet's device checkpoint."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.lab.clients.cri import decode, text

NAMESPACE = "train"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
CHECKPOINT = Path("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint")
DEVINFO = Path("/var/run/k8s.cni.cncf.io/devinfo/dp")
MAGIC = b"k8s\0"


class Kube:
    """An API server over plain HTTP that knows what was put into it, and keeps what Multus writes."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.statuses: dict[str, list[dict[str, Any]]] = {}
        self.entries: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{self._server.server_address[1]}")))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        CHECKPOINT.unlink(missing_ok=True)

    def add_network(self, name: str, conf: dict[str, Any], resource: str) -> None:
        """Define a network whose pods get devices of a resource."""
        self.objects[f"/apis/k8s.cni.cncf.io/v1/namespaces/{NAMESPACE}/network-attachment-definitions/{name}"] = {
            "apiVersion": "k8s.cni.cncf.io/v1",
            "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {RESOURCE: resource}},
            "spec": {"config": json.dumps(conf)},
        }

    def add_pod(self, name: str, uid: str, networks: list[dict[str, Any]]) -> None:
        self.objects[f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "uid": uid,
                "annotations": {NETWORKS: json.dumps(networks)},
            },
            "spec": {"containers": [{"name": "c", "image": "c"}]},
            "status": {"phase": "Pending"},
        }

    def allocate(self, uid: str, resource: str, pci: str, device_info: dict[str, Any]) -> None:
        """Note a device as kubelet does after a device plugin gave it, and its device-info as the plugin does (N4)."""
        entry = {"PodUID": uid, "ContainerName": "c", "ResourceName": resource, "DeviceIDs": {"-1": [pci]}}
        self.entries.append(entry)
        CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
        data = {"PodDeviceEntries": self.entries, "RegisteredDevices": {}}
        CHECKPOINT.write_text(json.dumps({"Data": data, "Checksum": 0}))
        DEVINFO.mkdir(parents=True, exist_ok=True)
        (DEVINFO / f"{resource.replace('/', '-')}-{pci}-device.json").write_text(json.dumps(device_info))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        kube = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                found = kube.objects.get(urlsplit(self.path).path)
                missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                self.answer(200 if found else 404, found or missing)

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                path = urlsplit(self.path).path.removesuffix("/status")
                kube.statuses[path.rpartition("/")[2]] = json.loads(annotations_of(body).get(STATUS, "[]"))
                self.answer(200, kube.objects[path])

            def do_POST(self) -> None:
                # events
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(201, {"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}})

            def answer(self, status: int, document: dict[str, Any]) -> None:
                raw = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
                """Say nothing."""

        return Handler


def annotations_of(body: bytes) -> dict[str, str]:
    """Read the annotations of an object as a client sends it, in JSON or in Kubernetes' protobuf envelope."""
    if not body.startswith(MAGIC):
        found: dict[str, str] = json.loads(body)["metadata"].get("annotations", {})
        return found
    # runtime.Unknown.raw is field 2; a Pod's metadata field 1; ObjectMeta.annotations field 12, a map
    pod = decode(decode(body.removeprefix(MAGIC))[2][0])
    entries = [decode(raw) for raw in decode(pod[1][0]).get(12, [])]
    return {text(entry, 1): text(entry, 2) for entry in entries}


def kubeconfig(server: str) -> dict[str, Any]:
    """JSON is YAML."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "users": [{"name": "multus", "user": {}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "multus"}}],
        "current-context": "lab",
    }
