"""A device plugin in the place of the SR-IOV network device plugin: `python3 -m … CONFIG`, in a node.

It takes that one's configuration (resourceList with the selectors vendors, drivers, pfNames and isRdma), serves each
resource by a socket in kubelet's plugins_registry, which kubelet finds by itself at each of its starts, and writes the
device-info files that Multus hands on. k8s.io/kubelet: pkg/apis/deviceplugin/v1beta1 and pluginregistration/v1.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped,import-not-found,unused-ignore]

from tests.lab.client_programs.cri import Message, decode, encode, text

PCI = Path("/sys/bus/pci/devices")
REGISTRY = Path("/var/lib/kubelet/plugins_registry")
DEVINFO = Path("/var/run/k8s.cni.cncf.io/devinfo/dp")
VERSION = "v1beta1"
LOOK_EACH = 1.0


@dataclass(frozen=True, kw_only=True)
class Resource:
    """An entry of resourceList."""

    name: str
    selectors: dict[str, Any]

    @property
    def variable(self) -> str:
        return "PCIDEVICE_" + "".join(each if each.isalnum() else "_" for each in self.name).upper()

    def vfs(self) -> list[str]:
        """The PCI addresses of the VFs that the selectors name, whoever has them now."""
        return [folder.name for folder in sorted(PCI.iterdir()) if self.names(folder)]

    def names(self, folder: Path) -> bool:
        pf = folder / "physfn"
        try:
            facts = {
                "vendors": (folder / "vendor").read_text().strip().removeprefix("0x"),
                # a VF between unbind and bind is still one of them
                "drivers": (pf / "driver").resolve().name,
                "pfNames": next((each.name for each in (pf / "net").iterdir()), ""),
            }
        except FileNotFoundError:
            # no VF, or one that goes away just now
            return False
        return all(fact in self.selectors.get(name, [fact]) for name, fact in facts.items())


def read_config(path: Path) -> list[Resource]:
    return [
        Resource(name=f"{each['resourcePrefix']}/{each['resourceName']}", selectors=each["selectors"])
        for each in json.loads(path.read_text())["resourceList"]
    ]


def rdma_nodes(vf: str) -> list[str]:
    """The device nodes of a VF, as they are called now."""
    found = [
        f"/dev/infiniband/{each.name}"
        for kind in ("infiniband_verbs", "infiniband_mad")
        for each in sorted((PCI / vf / kind).glob("*"))
    ]
    return [*found, "/dev/infiniband/rdma_cm"]


class DevicePlugin:
    """The services of one resource."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.socket = REGISTRY / f"{resource.name.replace('/', '_')}.sock"

    def info(self) -> Message:
        return {1: "DevicePlugin", 2: self.resource.name, 3: str(self.socket), 4: [VERSION]}

    def registered(self, request: bytes) -> Message:
        status = decode(request)
        print("registered" if status.get(1) == [1] else f"not registered: {text(status, 2)}", flush=True)
        return {}

    def list_and_watch(self, context: Any) -> Iterator[Message]:
        """The VFs, again after each change; one that is gone is unhealthy."""
        known: set[str] = set()
        told: list[tuple[str, str]] | None = None
        ended = threading.Event()
        context.add_callback(ended.set)
        while not ended.is_set():
            there = self.resource.vfs()
            known |= set(there)
            now = [(vf, "Healthy" if vf in there else "Unhealthy") for vf in sorted(known)]
            if now != told:
                told = now
                print(f"offers {len(there)} of {len(known)}", flush=True)
                yield {1: [{1: vf, 2: health} for vf, health in now]}
            ended.wait(LOOK_EACH)

    def allocate(self, request: bytes) -> Message:
        wanted = [[each.decode() for each in decode(raw).get(1, [])] for raw in decode(request).get(1, [])]
        return {1: [self.allocate_container(vfs) for vfs in wanted]}

    def allocate_container(self, vfs: list[str]) -> Message:
        for vf in vfs:
            self.write_device_info(vf)
        nodes = [node for vf in vfs for node in rdma_nodes(vf)] if self.resource.selectors.get("isRdma") else []
        print("allocated", *vfs, *nodes, flush=True)
        return {
            1: [{1: self.resource.variable, 2: ",".join(vfs)}],
            3: [{1: node, 2: node, 3: "rw"} for node in dict.fromkeys(nodes)],
        }

    def write_device_info(self, vf: str) -> None:
        DEVINFO.mkdir(parents=True, exist_ok=True)
        info = {"type": "pci", "version": "1.1.0", "pci": {"pci-address": vf}}
        (DEVINFO / f"{self.resource.name.replace('/', '-')}-{vf}-device.json").write_text(json.dumps(info))

    def serve(self) -> grpc.Server:
        def unary(method: Callable[[bytes], Message]) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                lambda request, _context: method(request), response_serializer=encode
            )

        watch = grpc.unary_stream_rpc_method_handler(
            lambda _request, context: self.list_and_watch(context), response_serializer=encode
        )
        services = {
            "pluginregistration.Registration": {
                "GetInfo": unary(lambda _: self.info()),
                "NotifyRegistrationStatus": unary(self.registered),
            },
            f"{VERSION}.DevicePlugin": {
                "GetDevicePluginOptions": unary(lambda _: {}),
                "Allocate": unary(self.allocate),
                "ListAndWatch": watch,
            },
        }
        server = grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        )
        REGISTRY.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        return server


if __name__ == "__main__":
    logging.basicConfig()  # else grpc keeps faults to itself
    servers = [DevicePlugin(each).serve() for each in read_config(Path(sys.argv[1]))]
    for server in servers:
        server.wait_for_termination()
