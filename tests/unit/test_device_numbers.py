"""core.device_numbers and the door to the kubelet's allocations: which devices a container was given and will find."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.core.device_numbers import free_numbers, missing_devices, predict_devices, promised_devices
from ib_sriov_cni.core.record import parse_record, render_record
from ib_sriov_cni.state.allocations import Allocations
from tests.unit.trees import RECORD

UID = "6f1c2e9a-0000-4000-8000-000000000001"
VF, OTHER = "0000:3b:00.2", "0000:3b:00.3"


def devices(*numbers: int, issm: bool = True) -> tuple[str, ...]:
    kinds = ("uverbs", "umad", "issm") if issm else ("uverbs", "umad")
    return tuple(f"{kind}{number}" for number in numbers for kind in kinds)


# ---- what a rebind gives


def test_without_a_gap_a_vf_gets_its_numbers_back() -> None:
    used = (*devices(0, 1, 2, 3), "abi_version")
    for number in range(4):
        own = devices(number)
        assert free_numbers(own, own, used) == ()
        assert set(predict_devices(own, own, used)) == set(own)


def test_a_lower_number_that_is_free_is_what_it_gets() -> None:
    used, own = devices(0, 2, 3), devices(3)
    assert free_numbers(own, own, used) == ("uverbs1", "umad1")
    assert missing_devices(own, predict_devices(own, own, used)) == own
    assert set(predict_devices(own, own, used)) == set(devices(1))


def test_a_gap_above_is_no_harm() -> None:
    own = devices(1)
    assert set(predict_devices(own, own, devices(0, 1, 5))) == set(own)


def test_a_vf_without_driver() -> None:
    assert set(predict_devices(devices(1), (), devices(0, 2))) == set(devices(1))
    assert set(predict_devices(devices(2), (), devices(1, 3))) == set(devices(0))


def test_another_device_has_its_number_now() -> None:
    """A second rebind helps once the lower number, which it got by chance, is taken."""
    assert set(predict_devices(devices(1), devices(2), devices(0, 1, 2))) == set(devices(2))
    assert set(predict_devices(devices(3), devices(1), devices(0, 1, 2))) == set(devices(1))
    assert set(predict_devices(devices(1), devices(3), devices(0, 2, 3))) == set(devices(1))


def test_the_kinds_are_counted_apart() -> None:
    """The second port of an HCA has a umad, but no uverbs of its own."""
    used = ("uverbs0", "umad0", "umad1", "uverbs1", "umad2")
    own = ("uverbs1", "umad2")
    assert set(predict_devices(own, own, used)) == set(own)
    two_ports = ("uverbs0", "umad0", "umad1")
    assert set(predict_devices(two_ports, two_ports, used)) == set(two_ports)


# ---- what the container was given


def test_what_was_seen_counts_if_no_more_is_known() -> None:
    assert promised_devices(devices(3), None, shared=False) == (devices(3), ())


def test_a_container_without_rdma_files_expects_none() -> None:
    assert promised_devices(devices(3), (), shared=False) == ((), ())
    assert promised_devices(devices(3), ("rdma_cm",), shared=True) == ((), ())


def test_the_kinds_that_the_container_was_given() -> None:
    assert promised_devices(devices(3), ("uverbs3", "rdma_cm"), shared=False) == (("uverbs3",), ())
    assert promised_devices(devices(3), devices(2, 3), shared=True) == (devices(3), ())


def test_the_container_was_given_others() -> None:
    assert promised_devices(devices(3), ("rdma_cm", *devices(5)), shared=False) == (devices(5), ())
    assert promised_devices(devices(3), devices(5, 6), shared=True) == ((), devices(5, 6))


# ---- in a record


def test_devices_are_stored_where_older_versions_expect_one() -> None:
    """They have one text there, with the uverbs device only."""
    doc = render_record(RECORD)
    assert doc["had_uverbs"] == "uverbs3 issm3 umad3"
    assert parse_record({**doc, "had_uverbs": "uverbs3"}).had_char_devices == ("uverbs3",)
    assert parse_record({**doc, "had_uverbs": ""}).had_char_devices == ()


# ---- the kubelet's checkpoint


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + content


def answer(*names: str) -> str:
    """A ContainerAllocateResponse with device files, an environment variable and an annotation."""
    paths = [f"/dev/infiniband/{name}".encode() for name in names]
    specs = b"".join(field(3, field(1, path) + field(2, path) + field(3, b"rw")) for path in paths)
    info = json.dumps({VF: {"rdma": {"uverbs": f"/dev/infiniband/{names[0]}"}}} if names else {}).encode()
    env = field(1, field(1, b"PCIDEVICE_EXAMPLE_COM_IB_INFO") + field(2, info))
    return base64.b64encode(env + specs).decode()


def entry(uid: str, ids: Any, allocated: str) -> dict[str, Any]:
    return {
        "PodUID": uid,
        "ContainerName": "main",
        "ResourceName": "example.com/ib",
        "DeviceIDs": ids,
        "AllocResp": allocated,
    }


def checkpoint(kubelet: Path, *entries: dict[str, Any]) -> Allocations:
    folder = kubelet / "device-plugins"
    folder.mkdir(exist_ok=True)
    data = {"PodDeviceEntries": list(entries), "RegisteredDevices": {"example.com/ib": [VF, OTHER]}}
    (folder / "kubelet_internal_checkpoint").write_text(json.dumps({"Data": data, "Checksum": 3}))
    return Allocations(str(kubelet))


def test_the_files_of_one_container(tmp_path: Path) -> None:
    found = checkpoint(
        tmp_path,
        entry("another", {"-1": [VF]}, answer("uverbs9")),
        entry(UID, {"0": [OTHER]}, answer("uverbs7")),
        entry(UID, {"0": [VF]}, answer("rdma_cm", "uverbs3", "umad3", "issm3")),
    )
    names, shared = found.read_devices(UID, VF)
    assert names is not None
    assert (set(names), shared) == ({"rdma_cm", "uverbs3", "umad3", "issm3"}, False)


@pytest.mark.parametrize("ids", [{"0": [VF], "1": [OTHER]}, {"-1": [VF, OTHER]}, [VF, OTHER]])
def test_the_files_of_two_vfs(tmp_path: Path, ids: Any) -> None:
    found = checkpoint(tmp_path, entry(UID, ids, answer("uverbs3", "uverbs4")))
    assert found.read_devices(UID, VF) == (("uverbs3", "uverbs4"), True)


def test_an_allocation_without_rdma(tmp_path: Path) -> None:
    assert checkpoint(tmp_path, entry(UID, {"0": [VF]}, answer())).read_devices(UID, VF) == ((), False)


def test_an_allocation_by_cdi_is_unknown(tmp_path: Path) -> None:
    named = base64.b64decode(answer()) + field(5, field(1, b"nvidia.com/net-pci=" + VF.encode()))
    found = checkpoint(tmp_path, entry(UID, {"0": [VF]}, base64.b64encode(named).decode()))
    assert found.read_devices(UID, VF) == (None, False)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        f'"{UID}"',
        f'{{"Data": "{UID}"}}',
        f'{{"Data": {{"PodDeviceEntries": {{"a": "{UID}"}}}}}}',
        f'{{"Data": {{"PodDeviceEntries": [{{"PodUID": "{UID}"}}]}}}}',
    ],
)
def test_another_format_is_unknown(tmp_path: Path, content: str) -> None:
    found = checkpoint(tmp_path)
    (tmp_path / "device-plugins/kubelet_internal_checkpoint").write_text(content)
    assert found.read_devices(UID, VF) == (None, False)


@pytest.mark.parametrize(
    ("ids", "allocated"),
    [({"0": [VF]}, 1), ({"0": [VF]}, "a"), ({"0": [VF]}, "CAE="), ({"0": [VF]}, "Gg=="), ({"0": 1}, ""), (VF, "")],
)
def test_another_format_of_an_entry_is_unknown(tmp_path: Path, ids: Any, allocated: Any) -> None:
    assert checkpoint(tmp_path, entry(UID, ids, allocated)).read_devices(UID, VF) == (None, False)


def test_no_kubelet(tmp_path: Path) -> None:
    assert Allocations(str(tmp_path / "none")).read_devices(UID, VF) == (None, False)


def test_a_fifo_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    found = checkpoint(tmp_path)
    path = tmp_path / "device-plugins/kubelet_internal_checkpoint"
    path.unlink()
    os.mkfifo(path)
    assert found.read_devices(UID, VF) == (None, False)
