"""State that cannot be written, VFs that are passed through, many pods at once, many HCAs."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.lab.commands import mounted, names, run, wait, write
from tests.lab.emulated_hca import DRIVERS
from tests.lab.rig import STATE, Rig, at_once, end, guid_of, leases, rigs, state_of

IDENTITY: dict[str, Any] = {"guid": guid_of(1), "link_state": "enable"}


@pytest.fixture(scope="module", params=["shared"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Four PFs, whose VFs have no GUID yet."""
    yield from rigs(request.param, vfs=2, total_vfs=4, pfs=4, preset=False)


def test_state_directory_is_read_only(rig: Rig) -> None:
    """Code 106 before any effect."""
    pod = rig.pod()
    with mounted(STATE, "ro"):
        refused = rig.call("ADD", pod, **IDENTITY)
        assert refused.code == 106, refused
        assert "Read-only file system" in refused.out["msg"]
        assert "undoing it failed" not in refused.out["details"]
        assert [link["ifname"] for link in pod.links()] == ["lo"]
        rig.assert_as_before()
    STATE.rmdir()
    rig.assert_as_before()


def test_state_directory_is_full(rig: Rig) -> None:
    pod = rig.pod()
    with mounted(STATE, "size=64k"):
        run(f"dd if=/dev/zero of={STATE}/filler bs=4k count=64", check=False)
        refused = rig.call("ADD", pod, **IDENTITY)
        assert refused.code == 106, refused
        assert "No space left on device" in refused.out["msg"]
        assert names(STATE / "attachments/ibnet") == []
        assert list(STATE.rglob("*.json*")) == []
        assert rig.hca.link_state(0) == "auto"
        (STATE / "filler").unlink()
        rig.add(pod, **IDENTITY)
        run(f"dd if=/dev/zero of={STATE}/filler bs=4k count=64", check=False)
        rig.delete(pod, **IDENTITY)
        assert list(STATE.rglob("*.json*")) == []
    STATE.rmdir()
    rig.assert_as_before()


def stopped(process: subprocess.Popen[str]) -> bool:
    return state_of(process.pid) == "T"


def test_state_directory_fills_up_on_the_way(rig: Rig) -> None:
    """The record is there, the owner's link or the last word is not: undone, and the DEL after it is content."""
    with mounted(STATE, "size=64k,nr_inodes=8"):
        for step in ("claim", "commit"):
            pod = rig.pod()
            process = rig.start("ADD", pod, trace=f"{step}=stop", **IDENTITY)
            assert wait(partial(stopped, process))
            run(f"dd if=/dev/zero of={STATE}/filler bs=4k count=64; touch {STATE}/1 {STATE}/2 {STATE}/3", check=False)
            process.send_signal(signal.SIGCONT)
            failed = end(process)
            assert failed.code == 106, failed
            assert "No space left on device" in failed.out["msg"]
            assert [link["ifname"] for link in pod.links()] == ["lo"]
            assert list(STATE.rglob("*.json*")) == []
            rig.delete(pod, **IDENTITY)
            run(f"rm {STATE}/filler {STATE}/[123]", check=False)
    STATE.rmdir()
    rig.assert_as_before()


def test_a_del_whose_state_cannot_be_written(rig: Rig) -> None:
    """The VF is returned all the same, the error is reported, and the next DEL finds only the record left to do."""
    pod = rig.pod()
    with mounted(STATE, "size=1m"):
        rig.add(pod, **IDENTITY)
        run(["mount", "-o", "remount,ro", str(STATE)])
        failed = rig.call("DEL", pod, **IDENTITY)
        assert failed.code == 106, failed
        assert "Read-only file system" in failed.out["msg"]
        assert leases() == []
        assert rig.hca.link_state(0) == "auto"
        assert [link["ifname"] for link in pod.links()] == ["lo"]
        run(["mount", "-o", "remount,rw", str(STATE)])
        rig.delete(pod, **IDENTITY)
        assert list(STATE.rglob("*.json*")) == []
    STATE.rmdir()
    rig.assert_as_before()


def test_links_planted_in_the_state_directory_are_not_followed(rig: Rig, tmp_path: Path) -> None:
    pod = rig.pod()
    treasure = tmp_path / "treasure"
    treasure.write_text("gold")
    folder = STATE / "attachments" / "ibnet"
    folder.mkdir(parents=True)
    for name in (".json", ".json.new"):
        (folder / f"{pod.container_id}:net1{name}").symlink_to(treasure)
    rig.add(pod, **IDENTITY)
    rig.delete(pod, **IDENTITY)
    assert treasure.read_text() == "gold"
    (damaged,) = folder.iterdir()  # what was in the place of the record is kept, as any damaged record is
    assert damaged.name == f"{pod.container_id}:net1.json.damaged"
    assert damaged.readlink() == treasure
    damaged.unlink()
    rig.assert_as_before()


def test_passed_through(rig: Rig) -> None:
    """A VF of a driver for virtual machines gets GUID and link state and no netdev, and is handed back."""
    hca, pci = rig.hca, rig.hca.pci(1)
    run(["modprobe", "pci-stub"])
    path = hca.vf_path(1)
    assert hca.unbind(1) == "OK"
    assert write(path / "driver_override", "pci-stub") == "OK"
    assert write(f"{DRIVERS}/pci-stub/bind", pci) == "OK"
    pod = rig.pod()
    first, had = hca.guids_at_pf(1), (guid_of(0x40), guid_of(0x40))
    hca.sets_guid(1, had[0])  # one that the PF does not know is not restored as zero: attach/test_passed_through.py
    result = rig.add(pod, 1, **IDENTITY)
    assert hca.guids_at_pf(1) == (guid_of(1), guid_of(1))
    assert hca.link_state(1) == "enable"
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    assert result["ips"][0]["address"].startswith("10.56.0.")
    check = rig.check(pod, result, 1, **IDENTITY)
    assert check.status == 0, check
    refused = rig.call("ADD", rig.pod("thief"), 1, **IDENTITY)
    assert refused.code == 101
    rig.delete(pod, 1, **IDENTITY)
    assert (hca.guids_at_pf(1), hca.link_state(1), hca.driver(1)) == (had, "auto", "pci-stub")
    hca.sets_guid(1, first[0])
    assert write(f"{DRIVERS}/pci-stub/unbind", pci) == "OK"
    assert write(path / "driver_override", "\n") == "OK"
    assert hca.bind(1) == "OK"
    assert hca.settled()
    rig.assert_as_before()


def test_eight_pods_at_once_on_four_hcas(rig: Rig) -> None:
    """Slow probes, new GUIDs; each pod has its own VF, GUID and address, whatever order they come in."""
    rig.hca.knob("probe_delay_ms", 1000)
    places = [(hca, vf) for hca in rig.hca.pfs for vf in range(2)]
    pods = [rig.pod() for _ in places]
    confs = [
        rig.conf(None, deviceID=hca.pci(vf), guid=guid_of(number), link_state="enable")
        for number, (hca, vf) in enumerate(places)
    ]
    runs = at_once(partial(rig.cni, "ADD", pod, conf) for pod, conf in zip(pods, confs, strict=True))
    assert [found.status for found in runs] == [0] * 8, runs
    for number, (pod, conf, found) in enumerate(zip(pods, confs, runs, strict=True)):
        (interface,) = found.out["interfaces"]
        assert interface["mac"].endswith(guid_of(number))
        assert interface["pciID"] == conf["deviceID"]
        assert pod.addresses() == [found.out["ips"][0]["address"]]
    assert len(leases()) == 8
    checks = [{**conf, "prevResult": found.out} for conf, found in zip(confs, runs, strict=True)]
    done = at_once(partial(rig.cni, "CHECK", pod, conf) for pod, conf in zip(pods, checks, strict=True))
    assert [found.status for found in done] == [0] * 8, done
    gone = at_once(partial(rig.cni, "DEL", pod, conf) for pod, conf in zip(pods, confs, strict=True))
    assert [found.status for found in gone] == [0] * 8, gone
    rig.assert_as_before()
