"""ADD, CHECK and DEL of a device that is passed through, in a real namespace with a fake sysfs: nothing is moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.attach.add import add
from ib_sriov_cni.attach.check import check
from ib_sriov_cni.attach.delete import delete
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import CheckDifference, CniError
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.request import Request, parse_request
from ipam.protocol.result import render_result
from tests.netns.conftest import Sandbox
from tests.unit.trees import PF, Tree, tree

LONE_VF = "0000:00:05.0"
EARLIER = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.244.1.7/24", "interface": 1}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1"}],
}


class Case:
    """A PF and a VF without a PF, both bound to VFIO drivers, and a pod."""

    def __init__(self, root: Path, sandbox: Sandbox) -> None:
        self.root, self.sandbox = root, sandbox
        self.tree = Tree(root / "sys")
        self.tree.add_pf(driver="vfio-pci")
        self.tree.add_lone(LONE_VF, driver="mlx5_vfio_pci")
        places = {"state_dir": root / "state", "lock_dir": root / "run", "sysfs_root": root / "sys"}
        self.host = Host(log=Log(level="error"), **{name: str(path) for name, path in places.items()})
        self.info = root / "net1-device.json"
        self.info.write_text('{"type": "pci", "version": "1.1.0", "pci": {}}')
        self.before = tree(root / "sys")

    def request(self, command: str, device: str, **more: Any) -> Request:
        conf = {
            "cniVersion": "1.1.0",
            "name": "ib",
            "type": "ib-sriov",
            "deviceID": device,
            "runtimeConfig": {"CNIDeviceInfoFile": str(self.info)},
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.root / "leases"),
                "ranges": [[{"subnet": "10.56.0.0/24"}]],
            },
            **more,
        }
        environ = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": self.sandbox.path,
            "CNI_IFNAME": "net1",
            "CNI_PATH": "/opt/cni/bin",
        }
        return parse_request(environ, json.dumps(conf).encode(), known_args=frozenset())

    def add(self, device: str, **more: Any) -> dict[str, Any]:
        request = self.request("ADD", device, **more)
        return render_result(add(self.host, request, parse_netconf(request)), "1.1.0")

    def check(self, device: str, **more: Any) -> None:
        request = self.request("CHECK", device, **more)
        check(self.host, request, parse_netconf(request))

    def delete(self, device: str, **more: Any) -> None:
        request = self.request("DEL", device, **more)
        delete(self.host, request, parse_netconf(request, lenient=True))


@pytest.fixture
def case(tmp_path: Path, sandbox: Sandbox) -> Iterator[Case]:
    made = Case(tmp_path, sandbox)
    with made.host:
        yield made


@pytest.mark.parametrize(
    ("device", "more"), [(LONE_VF, {}), (LONE_VF, {"vfioPciMode": True}), (PF, {"vfioPciMode": True})]
)
def test_it_is_attached_as_it_is(case: Case, device: str, more: dict[str, Any]) -> None:
    """The result has what Multus and KubeVirt look for, after what the chain's earlier plugins made."""
    result = case.add(device, prevResult=EARLIER, **more)
    ours = {"name": "net1", "sandbox": case.sandbox.path, "pciID": device}
    assert result["interfaces"] == [*EARLIER["interfaces"], ours]
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [("10.244.1.7/24", 1), ("10.56.0.2/24", 2)]
    assert result["routes"] == EARLIER["routes"]
    assert json.loads(case.info.read_text())["pci"] == {"pci-address": device}
    assert [link["ifname"] for link in case.sandbox.ip("link")] == ["lo"]
    case.check(device, prevResult=result, **more)
    case.delete(device, **more)
    case.delete(device, **more)
    assert tree(case.root / "sys") == case.before
    assert not list((case.root / "leases").rglob("10.56.*"))
    assert not list((case.root / "state").rglob("*.json"))


def test_check_finds_the_driver_of_the_host(case: Case) -> None:
    result = case.add(LONE_VF)
    (case.tree.device(LONE_VF) / "driver").unlink()
    case.tree.bind(LONE_VF, "mlx5_core")
    with pytest.raises(CheckDifference, match="has driver mlx5_core, not mlx5_vfio_pci"):
        case.check(LONE_VF, prevResult=result)
    case.delete(LONE_VF)


@pytest.mark.parametrize(
    ("device", "more", "code", "words"),
    [
        (PF, {}, 101, "is a physical function, not a VF"),
        (PF, {"vfioPciMode": True, "link_state": "auto"}, 2, f"link_state: PF {PF} has no PF on this machine"),
        (LONE_VF, {"guid": "02:00:00:00:00:00:00:01"}, 2, f"guid: VF {LONE_VF} has no PF on this machine"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    case: Case, device: str, more: dict[str, Any], code: int, words: str
) -> None:
    with pytest.raises(CniError) as caught:
        case.add(device, **more)
    assert (caught.value.code, words in caught.value.msg) == (code, True), caught.value
    assert tree(case.root / "sys") == case.before
    assert not (case.root / "leases").exists()
    assert not list((case.root / "state").rglob("*.json"))
