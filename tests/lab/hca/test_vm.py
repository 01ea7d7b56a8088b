"""What the host makes of a finished VM and of the archive's packages: pure, no VM is booted."""

from __future__ import annotations

import pytest

from tests.lab import vm
from tests.lab.archive import newest_release, packages_of
from tests.lab.commands import received
from tests.lab.snapshot import differences

CLEAN = (
    '[    0.000000] Command line: panic=-1 oops=panic\n[    1.1] PCI: use "pci=nocrs" and report a bug\n'
    "[    9.9] debugfs: File 'net1_mcg' in directory 'ipoib' already present!\n"
)


def judge(log: str, status: str | None, **how: int) -> vm.Verdict:
    return vm.judge(
        log,
        status,
        came_up=bool(how.get("came_up", 1)),
        qemu=how.get("qemu", 0),
        timed_out=bool(how.get("timed_out", 0)),
        limit=300,
    )


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_status_passes_through(status: int) -> None:
    # 12288: an out-of-tree module without signature, which ibemu is
    assert judge(CLEAN, f"{status} 12288\n") == vm.Verdict(status=status)


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 1 at net/core/dev.c:10870 unregister_netdevice_many+0x1",
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: 0000 [#1] PREEMPT SMP",
        "Call Trace:",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        "INFO: task ip:123 blocked for more than 120 seconds.",
        "refcount_t: underflow; use-after-free.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "unregister_netdevice: waiting for net1 to become free. Usage count = 2",
        "general protection fault, probably for non-canonical address",
    ],
)
@pytest.mark.parametrize("stamp", ["[    3.141592] ", "<4>[  103.14] ", "[  3.1][  T123] "])
def test_kernel_fault_never_passes(line: str, stamp: str) -> None:
    verdict = judge(f"{CLEAN}{stamp}{line}\n", "0 12288")
    assert verdict.status == vm.KERNEL_FAULT
    assert line.split(":", 1)[0] in verdict.reason


def test_words_of_the_command_are_not_the_kernels() -> None:
    assert judge(f"{CLEAN}WARNING: printed by a program\n", "0 12288").status == 0


@pytest.mark.parametrize("taint", [1 << 5, 1 << 7, 1 << 9, 1 << 14])
def test_tainted_kernel_never_passes(taint: int) -> None:
    assert judge(CLEAN, f"0 {12288 | taint}").status == vm.KERNEL_FAULT


@pytest.mark.parametrize("status", ["0 12288", None])
@pytest.mark.parametrize("came_up", [0, 1])
def test_panic_never_passes(status: str | None, came_up: int) -> None:
    log = f"{CLEAN}[    5.0] Kernel panic - not syncing: Fatal exception\n"
    assert judge(log, status, came_up=came_up).status == vm.PANIC


def test_every_other_end_has_a_status_of_its_own() -> None:
    ends = {
        vm.TIME_OUT: judge(CLEAN, None, timed_out=1),
        vm.NEVER_UP: judge(CLEAN, None, came_up=0),
        vm.WENT_DOWN: judge(CLEAN, None),
        vm.QEMU_DIED: judge(CLEAN, "0 12288", qemu=-9),
    }
    assert {number: verdict.status for number, verdict in ends.items()} == {number: number for number in ends}
    assert all(verdict.reason for verdict in ends.values())


def test_command_over_its_limit() -> None:
    log = f"{CLEAN}[  304.0] lab-agent: the time limit of 300 s; the tasks that wait:\n[  304.1] Call Trace:\n"
    assert judge(log, "124 12288").status == vm.TIME_OUT
    assert "within 300 s" in judge(log, "124 12288").reason


def test_hanging_boot_is_not_a_slow_command() -> None:
    assert judge(CLEAN, None, came_up=0, timed_out=1).status == vm.NEVER_UP


def test_what_init_said_last_is_the_reason() -> None:
    log = f"{CLEAN}[    2.0] lab-init: cannot mount the host's root\n"
    assert "cannot mount the host's root" in judge(log, None, came_up=0).reason


ARCHIVE = {
    "linux-image-amd64": "linux-image-6.1.0-9-amd64 (= 6.1.27-1)",
    "linux-image-6.1.0-9-amd64": "",
    "linux-headers-6.1.0-9-amd64": "linux-headers-6.1.0-9-common (= 6.1.27-1), linux-kbuild-6.1 (>= 6.1.27-1)",
    "linux-image-6.1.0-10-amd64": "",
    "linux-image-6.12.9+deb12-amd64": "",
    "linux-headers-6.12.9+deb12-amd64": "linux-headers-6.12.9+deb12-common, linux-kbuild-6.12.9+deb12, gcc-12",
    "linux-image-6.12.22+deb12-amd64": "",
    "linux-headers-6.12.22+deb12-amd64": "",
    "linux-image-6.12.30+deb12-amd64": "",
    "linux-image-6.12.30+deb12-rt-amd64": "",
    "linux-headers-6.12.30+deb12-rt-amd64": "",
    "linux-image-6.12.30+deb12-cloud-amd64": "",
    "linux-headers-6.12.30+deb12-cloud-amd64": "",
}


def test_meta_package_names_the_release() -> None:
    assert newest_release("6.1", "amd64", ARCHIVE) == "6.1.0-9-amd64"


def test_newest_with_headers_where_no_meta_package_is() -> None:
    assert newest_release("6.12", "amd64", ARCHIVE) == "6.12.22+deb12-amd64"


def test_meta_package_of_what_is_not_there() -> None:
    archive = ARCHIVE | {"linux-image-6.12-amd64": "linux-image-6.12.30+deb12-amd64 (= 6.12.30-1)"}
    assert newest_release("6.12", "amd64", archive) == "6.12.22+deb12-amd64"


def test_series_that_the_archive_has_not() -> None:
    assert newest_release("6.9", "amd64", ARCHIVE) is None


def test_packages_that_headers_are_made_of() -> None:
    assert packages_of("6.12.9+deb12-amd64", ARCHIVE) == [
        "linux-image-6.12.9+deb12-amd64",
        "linux-headers-6.12.9+deb12-amd64",
        "linux-headers-6.12.9+deb12-common",
        "linux-kbuild-6.12.9+deb12",
    ]


@pytest.mark.parametrize(
    ("summary", "count"),
    [
        ("3 packets transmitted, 3 received, 0% packet loss, time 2003ms", 3),
        ("3 packets transmitted, 3 packets received, 0% packet loss", 3),
        ("2 packets transmitted, 0 received, 100% packet loss, time 1024ms", 0),
        ("2 packets transmitted, 2 received, +2 duplicates, 0% packet loss", 2),
        ("", 0),
    ],
)
def test_both_pings_are_understood(summary: str, count: int) -> None:
    assert received(f"64 bytes from 10.1.0.2: seq=0 ttl=64\n\n{summary}\n") == count


def test_snapshot_names_each_difference() -> None:
    before = {"VF 0 driver": "ib_qib", "VF 1 driver": "ib_qib", "file /a": "'x'"}
    now = {"VF 0 driver": "none", "VF 1 driver": "ib_qib", "lock b": "held"}
    assert differences(before, now) == [
        "VF 0 driver: ib_qib before, none now",
        "file /a: 'x' before, (absent) now",
        "lock b: (absent) before, held now",
    ]
