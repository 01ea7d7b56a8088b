"""The builds attach a VF on a host that has no Python and no rdma-core: a root with busybox and the C library.

Under a chroot, as thick Multus calls a plugin; proc, sysfs, devices and the state are the guest's.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.lab.attach.test_main import netconf
from tests.lab.cni import Cni
from tests.lab.conftest import MakeHca, MakePod, TakeSnapshot
from tests.packaging.conftest import BUILDS, Root

SHARED = ("proc", "sys", "dev", "run", "var")


def bare(root: Root, program: str) -> Cni:
    """Calls the program under a chroot, in a mount namespace of its own."""
    at = shlex.quote(str(root.path))
    mounts = "; ".join(f"mkdir -p {at}/{name}; mount --rbind /{name} {at}/{name}" for name in SHARED)
    cni = Cni()
    cni.command = ["unshare", "--mount", "/bin/sh", "-euc", f"{mounts}; exec chroot {at} {program}"]
    return cni


@pytest.mark.parametrize("build", sorted(BUILDS))
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_attached_and_released(
    make_hca: MakeHca, pods: MakePod, host_snapshot: TakeSnapshot, tmp_path: Path, mode: str, build: str
) -> None:
    root = Root(tmp_path / "root")
    cni = bare(root, root.add(BUILDS[build]))
    hca = make_hca(mode=mode)
    before = host_snapshot(hca)
    # With it standard error has nothing but what should not be there.
    log: dict[str, Any] = {"logFile": "/run/ib-sriov-test.log"}
    conf = netconf(hca, rdmaIsolation=mode == "exclusive", guid="02:11:22:33:44:55:66:77", **log)
    pod = pods("a")
    run = cni("ADD", pod, conf)
    assert run.status == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert pod.addresses() == ["10.56.0.2/24"]
    check = cni("CHECK", pod, {**conf, "prevResult": run.out})
    assert (check.status, check.stdout) == (0, ""), check.stdout
    gone = cni("DEL", pod, conf)
    assert (gone.status, gone.stdout) == (0, ""), gone.stdout + gone.stderr
    pod.delete()
    before.assert_as_before()
    assert not list((root.path / "tmp").iterdir())


@pytest.mark.parametrize("build", sorted(BUILDS))
def test_the_providers_are_its_own(make_hca: MakeHca, pods: MakePod, tmp_path: Path, build: str) -> None:
    """A provider of the host that cannot be loaded is not even looked at."""
    root = Root(tmp_path / "root")
    cni = bare(root, root.add(BUILDS[build]))
    folder = root.path / "etc/libibverbs.d"
    folder.mkdir()
    (folder / "junk.driver").write_text("driver junk\n")
    hca, pod = make_hca(), pods("a")
    run = cni("ADD", pod, netconf(hca), env={"IBV_SHOW_WARNINGS": "1"})
    assert run.status == 0, run.stdout + run.stderr
    assert "junk" not in run.stderr
    assert cni("DEL", pod, netconf(hca)).status == 0


@pytest.mark.parametrize("build", sorted(BUILDS))
def test_a_verb_reads_nothing_of_the_archive(make_hca: MakeHca, pods: MakePod, tmp_path: Path, build: str) -> None:
    """To find one module there its whole list is read, which took an ADD half of its instructions."""
    hca, pod = make_hca(), pods("a")
    conf = netconf(hca, guid="02:11:22:33:44:55:66:77")
    cni = Cni()
    for verb in ("ADD", "DEL"):
        trace = tmp_path / verb
        cni.command = ["strace", "-f", "-e", "trace=open,openat", "-o", str(trace), str(BUILDS[build])]
        run = cni(verb, pod, conf)
        assert run.status == 0, run.stdout + run.stderr
        opened = trace.read_text()
        assert "/proc/sys/kernel/random/boot_id" in opened
        assert "/proc/self/exe" not in opened
