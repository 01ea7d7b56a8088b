"""The program attaches a VF on a host that has no Python, no rdma-core and no C library: a root with a static busybox.

Under a chroot, as thick Multus calls a plugin; proc, sysfs, devices and the state are the guest's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cni import Cni
from tests.lab.modes import SHARED
from tests.lab.rig import Rig, guid_of, rigs
from tests.packaging.conftest import BUILD, Root

SHARED_FOLDERS = ("proc", "sys", "dev", "run", "var")


@pytest.fixture(scope="module", params=["shared", "exclusive"])
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The VFs have no GUIDs yet."""
    yield from rigs(request.param, preset=False)


def bare(root: Root, program: str) -> Cni:
    """Calls the program under a chroot, in a mount namespace of its own."""
    at = shlex.quote(str(root.path))
    mounts = "; ".join(f"mkdir -p {at}/{name}; mount --rbind /{name} {at}/{name}" for name in SHARED_FOLDERS)
    cni = Cni()
    cni.command = ["unshare", "--mount", "/bin/sh", "-euc", f"{mounts}; exec chroot {at} {program}"]
    return cni


def test_attached_and_released(rig: Rig, tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    cni = bare(root, root.add(BUILD))
    # With a log file standard error has nothing but what should not be there.
    conf = rig.conf(guid=guid_of(1), logFile="/run/ib-sriov-test.log")
    pod = rig.pod()
    added = cni("ADD", pod, conf)
    assert added.status == 0, added
    assert added.stderr == ""
    assert pod.addresses() == ["10.56.0.2/24"]
    check = cni("CHECK", pod, {**conf, "prevResult": added.out})
    assert (check.status, check.stdout) == (0, ""), check
    gone = cni("DEL", pod, conf)
    assert (gone.status, gone.stdout) == (0, ""), gone
    pod.delete()
    rig.assert_as_before()
    assert not list((root.path / "tmp").iterdir())


@SHARED
def test_the_providers_are_its_own(rig: Rig, tmp_path: Path) -> None:
    """A provider of the host that cannot be loaded is not even looked at."""
    root = Root(tmp_path / "root")
    cni = bare(root, root.add(BUILD))
    folder = root.path / "etc/libibverbs.d"
    folder.mkdir()
    (folder / "junk.driver").write_text("driver junk\n")
    pod, conf = rig.pod(), rig.conf()
    added = cni("ADD", pod, conf, env={"IBV_SHOW_WARNINGS": "1"})
    assert added.status == 0, added
    assert "junk" not in added.stderr
    assert cni("DEL", pod, conf).status == 0
    rig.assert_as_before()


@SHARED
def test_a_command_reads_nothing_of_the_archive(rig: Rig, tmp_path: Path) -> None:
    """To find one module there its whole list is read, which took an ADD half of its instructions."""
    pod, conf = rig.pod(), rig.conf(guid=guid_of(1))
    cni = Cni()
    for command in ("ADD", "DEL"):
        trace = tmp_path / command
        cni.command = ["strace", "-f", "-e", "trace=open,openat", "-o", str(trace), str(BUILD)]
        run = cni(command, pod, conf)
        assert run.status == 0, run
        opened = trace.read_text()
        assert "/proc/sys/kernel/random/boot_id" in opened
        assert "/proc/self/exe" not in opened
    rig.assert_as_before()
