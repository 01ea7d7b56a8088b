"""What Multus asks of a cluster, in miniature: pods, network attachment definitions, kubelet's device checkpoint."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.lab import commands
from tests.lab.client_programs.cri import decode, text

NAMESPACE = "train"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"
CHECKPOINT = Path("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint")
DEVINFO = Path("/var/run/k8s.cni.cncf.io/devinfo/dp")
MAGIC = b"k8s\0"
LISTS = {
    "/api/v1/pods": ("v1", "Pod"),
    "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions": ("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition"),
}


class Kube:
    """An API server that knows what was put into it, and keeps what Multus writes.

    It speaks plain HTTP; or TLS, if `account` names a folder, which then becomes what a pod's service account is.
    A watch does not report what is put into it later.
    """

    def __init__(self, folder: Path, *, account: Path | None = None) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.statuses: dict[str, list[dict[str, Any]]] = {}
        self.entries: list[dict[str, Any]] = []
        self.ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if account is not None:
            self._server.socket = tls(account).wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{self.port}")))

    def close(self) -> None:
        self.ending.set()
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

    def listed(self, version: str, kind: str) -> dict[str, Any]:
        """All objects of a kind, as an answer to a LIST."""
        items = [each for each in self.objects.values() if each["kind"] == kind]
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": items}

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
                address = urlsplit(self.path)
                query = parse_qs(address.query)
                if "sendInitialEvents" in query:
                    # a client that hears this lists and watches as clients always did
                    self.answer(422, failure("Invalid", 422))
                elif "watch" in query:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Connection", "close")
                    self.end_headers()
                    kube.ending.wait(60)
                elif address.path in LISTS:
                    self.answer(200, kube.listed(*LISTS[address.path]))
                else:
                    found = kube.objects.get(address.path)
                    self.answer(200 if found else 404, found or failure("NotFound", 404))

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


def failure(reason: str, code: int) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}


def tls(account: Path) -> ssl.SSLContext:
    """Make a key and a certificate for 127.0.0.1, and the token and ca.crt of a service account."""
    account.mkdir(parents=True, exist_ok=True)
    key, certificate = make_certificate(account, "127.0.0.1")
    (account / "token").write_text("a token that is never checked")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def make_certificate(folder: Path, *addresses: str) -> tuple[Path, Path]:
    """Make the key of a server, server.key, and a certificate of its addresses, ca.crt, which is its own authority."""
    key, certificate = folder / "server.key", folder / "ca.crt"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=lab", "-addext", "subjectAltName=" + ",".join(f"IP:{each}" for each in addresses)]
    commands.run([*words, "-keyout", str(key), "-out", str(certificate)])
    return key, certificate


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
