"""Run test suites, those of the virtual machine two at a time, and sum up their junit files in one line.

    suites.py SUITE...    lint, or a folder of tests: unit ipam fuzz netns security manifests docs packaging
                          conformance; fuzz-long: fuzz for an hour; build-cold: builds from nothing; with two guests
                          each: fabric, cluster (the same on other clusters: cluster-containerd2, cluster-2019),
                          cluster-full; in the guest: a folder of tests/lab (hca attach races matrix faults clients node
                          agent cli soak udev), conformance, and:
                          main: ADD and DEL, the short check; matrix-6.1: a sample of the matrix on that kernel;
                          linux-5.10, linux-newest: main and faults of the HCA on the oldest and the newest kernel;
                          aarch64: main on an emulated aarch64, with dist/ib-sriov-aarch64;
                          build, build-all, build-conformance: with dist/ib-sriov instead of the source

A suite that fails does not stop the next one from running. The last line is "N passed, N failed"; a
skip, an error, a suite that is empty or died before it wrote its results all count as failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TextIO

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
RESULTS = os.path.join(ROOT, ".test-results")
PYTEST = [sys.executable, "-m", "pytest", "-q"]
LAB = os.path.join("tests", "lab")
# The folders of tests/lab that are suites, each in its own guest.
LAB_SUITES = ("hca", "attach", "races", "matrix", "faults", "clients", "node", "agent", "cli", "soak", "udev")
ATTACH = f"{LAB}/attach"
MAIN_JOB = (f"{ATTACH}/test_main.py", f"{ATTACH}/test_del.py")
# What the oldest and the newest kernel have to pass too.
ON_BOTH_ENDS = (f"{LAB}/hca/test_kernel_features.py", *MAIN_JOB, f"{LAB}/faults/test_hca.py")
GUEST_TESTS_OF_BUILDS = "tests/packaging/guest"
# The suites that run in the lab's virtual machine, with pytest's arguments there.
IN_GUEST: dict[str, tuple[str, ...]] = {
    **{name: (f"{LAB}/{name}",) for name in LAB_SUITES},
    "main": MAIN_JOB,
    "aarch64": MAIN_JOB,
    "matrix-6.1": (f"{LAB}/matrix",),
    **dict.fromkeys(("linux-5.10", "linux-newest"), ON_BOTH_ENDS),
    "conformance": ("tests/conformance",),
    "build": (GUEST_TESTS_OF_BUILDS, *MAIN_JOB, f"{ATTACH}/test_guid.py"),
    "build-all": (GUEST_TESTS_OF_BUILDS, ATTACH, f"{LAB}/races", f"{LAB}/faults"),
    "build-conformance": ("tests/conformance",),
}
LANES = 2  # guests at once: each keeps little more than one processor busy
# What `make build` makes, for the guest's type of machine. It starts faster than the source, above all where
# instructions are emulated.
PROGRAM = os.path.join(ROOT, "dist", "ib-sriov")
RUN_THE_SOURCE = ("agent", "cli")
# Suites that boot two guests each. They come last: what they are made of may be built meanwhile (tests/tools/need).
WITH_TWO_GUESTS = ("fabric", "cluster", "cluster-containerd2", "cluster-2019", "cluster-full")
NEEDS = {name: name for name in WITH_TWO_GUESTS if name != "fabric"}
# Additional environment variables of a suite.
SETTINGS: dict[str, dict[str, str]] = {
    name: {} if name in RUN_THE_SOURCE else {"IB_SRIOV_PLUGIN": PROGRAM} for name in IN_GUEST
}
SETTINGS["cluster"] = {"IB_SRIOV_PLUGIN": PROGRAM}
SETTINGS["cluster-containerd2"] = {**SETTINGS["cluster"], "CLUSTER": "containerd2"}
SETTINGS["cluster-2019"] = {**SETTINGS["cluster"], "CLUSTER": "2019"}
SETTINGS["udev"] |= {"UDEV": "1"}
SETTINGS["aarch64"] |= {"MACHINE": "aarch64", "IB_SRIOV_PLUGIN": os.path.join(ROOT, "dist", "ib-sriov-aarch64")}
SETTINGS["matrix-6.1"] |= {"KERNEL": "6.1", "LAB_EVERY": "7"}
SETTINGS["linux-5.10"] |= {"KERNEL": "5.10"}
SETTINGS["linux-newest"] |= {"KERNEL": "newest"}
# The time for all parts of the fuzzing together (tests/fuzz/budget.py); FUZZ_SECONDS in the environment overrides it.
SETTINGS["fuzz-long"] = {"FUZZ_SECONDS": os.environ.get("FUZZ_SECONDS", "3600")}
# Suites whose name differs from their folder's.
FOLDERS = {
    "fuzz-long": "fuzz",
    "build-cold": "packaging/cold",
    "fabric": "cluster/fabric",
    **dict.fromkeys(("cluster", "cluster-containerd2", "cluster-2019"), "cluster/pods"),
    "cluster-full": "cluster/full",
}
# Suites that make network namespaces and hostile users, root file systems for the packed program, machines on a bridge.
AS_ROOT = ("netns", "security", "packaging", *WITH_TWO_GUESTS)
# Suites that change nothing outside their own folders and keep one processor busy: they run beside the guests.
BESIDE_GUESTS = ("ipam", "fuzz", "manifests", "docs")
# Suites whose tests run on all processors: they wait more than they compute.
SIDE_BY_SIDE = ("unit",)
# For a suite on a slow machine; one that hangs must still end before CI's own limit.
GUEST_SECONDS = "2700"
# Each of these counts as one test.
LINT = {
    "ruff": [sys.executable, "-m", "ruff", "check", "--quiet"],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--check", "--quiet"],
    "mypy": [sys.executable, "-m", "mypy", "--no-error-summary"],
    "shellcheck": [os.path.join(ROOT, "tests", "tools", "check-scripts")],
}


def run(command: list[str], settings: dict[str, str] | None = None, *, log: TextIO | None = None) -> int:
    environ = os.environ | {"PYTHONPATH": ROOT} | (settings or {})
    return subprocess.run(command, cwd=ROOT, check=False, env=environ, stdout=log, stderr=log).returncode


def as_root(command: list[str]) -> list[str]:
    """Return the command run as root, which network namespaces need."""
    if os.geteuid() == 0:
        return command
    kept = "--preserve-env=HOME,XDG_CACHE_HOME,PATH,IB_SRIOV_PLUGIN,CLUSTER"
    return ["sudo", *([] if sys.stdin.isatty() else ["-n"]), kept, *command]


def junit_counts(path: str) -> tuple[int, int]:
    """Return (passed, failed) of a junit file; anything that did not pass counts as failed."""
    passed = failed = 0
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314  our own pytest wrote it
        if case.find("failure") is None and case.find("error") is None and case.find("skipped") is None:
            passed += 1
        else:
            failed += 1
    return passed, failed


def count_moments(path: str) -> str:
    """Return a line with how many moments of death and error the tests went through; "" if none did.

    They are properties of the suite called "moments MODE COMMAND LETTER", noted by tests that passed
    (tests/lab/matrix).
    """
    counts: dict[str, dict[str, int]] = {}
    try:
        root = ET.parse(path).getroot()  # noqa: S314  our own pytest wrote it
    except (OSError, ET.ParseError):
        return ""
    for each in root.iter("property"):
        word, *names = each.get("name", "").split()
        if word == "moments":
            mode, command, letter = names
            letters = counts.setdefault(f"{mode} {command}", {})
            letters[letter] = letters.get(letter, 0) + int(each.get("value", "0"))
    if not counts:
        return ""
    parts = [
        f"{name}: {', '.join(f'{letter} {count}' for letter, count in sorted(letters.items()))}"
        for name, letters in counts.items()
    ]
    total = sum(sum(letters.values()) for letters in counts.values())
    words = "a: death, then the next call; b: death, then the next pod; c: error; t: SIGTERM"
    return f"{total} moments of death and error passed ({words}): {'; '.join(parts)}"


def lint() -> tuple[int, int]:
    statuses = {name: run(command) for name, command in LINT.items()}
    for name, status in statuses.items():
        print(f"{name}: {'ok' if status == 0 else f'failed ({status})'}", flush=True)
    failed = sum(status != 0 for status in statuses.values())
    return len(statuses) - failed, failed


def pytest_suite(name: str, log: TextIO | None = None) -> tuple[int, int]:
    junit = os.path.join(RESULTS, f"{name}.xml")
    folder = os.path.join("tests", FOLDERS.get(name, name))
    settings = SETTINGS.get(name, {})
    if os.path.exists(junit):
        os.remove(junit)
    if name in IN_GUEST:
        settings = {**settings, "JUNIT": junit, "TIMEOUT": os.environ.get("TIMEOUT", GUEST_SECONDS)}
        command = [os.path.join(ROOT, LAB, "pytest"), *IN_GUEST[name]]
    else:
        command = [*PYTEST, folder, f"--junitxml={junit}"]
        if name in SIDE_BY_SIDE:
            command += ["-p", "xdist", "-n", "auto"]
        if name == "packaging":
            command += ["--ignore=tests/packaging/guest", "--ignore=tests/packaging/cold"]
        if name in AS_ROOT:
            command = as_root(command)
    try:
        status = run(command, settings, log=log)
    except OSError as fault:
        print(f"{name}: {fault}", flush=True)
        return 0, 1
    try:
        passed, failed = junit_counts(junit)
    except (OSError, ET.ParseError) as fault:
        print(f"{name}: no results: {fault}", flush=True)
        return 0, 1
    if passed + failed == 0:
        print(f"{name}: no test was run", flush=True)
    # A bad status without a failed test: a crash after the last one, a kernel warning, an empty suite.
    return passed, failed or int(status != 0 or passed == 0)


def run_suite(name: str, log: TextIO | None = None) -> tuple[str, int, int, float]:
    """Return name, passed, failed, seconds."""
    start = time.monotonic()
    if name in NEEDS and run([os.path.join(ROOT, "tests", "tools", "need"), NEEDS[name]], log=log):
        return name, 0, 1, time.monotonic() - start
    passed, failed = lint() if name == "lint" else pytest_suite(name, log)
    return name, passed, failed, time.monotonic() - start


def run_in_lane(name: str) -> tuple[tuple[str, int, int, float], str]:
    """Run a suite next to another: keep its output and return it with its figures."""
    path = os.path.join(RESULTS, f"{name}.log")
    with open(path, "w+", encoding="utf-8", errors="replace") as log:
        row = run_suite(name, log)
        log.seek(0)
        return row, log.read()


def run_lanes(names: list[str]) -> Iterator[tuple[str, int, int, float]]:
    """Run suites side by side, started in order; each one's output is printed in one piece."""
    with ThreadPoolExecutor(LANES) as lanes:
        for done in as_completed([lanes.submit(run_in_lane, name) for name in names]):
            row, said = done.result()
            print(f"\n== {row[0]}\n{said}", flush=True)
            yield row


def run_alone(names: list[str]) -> Iterator[tuple[str, int, int, float]]:
    for name in names:
        print(f"\n== {name}", flush=True)
        yield run_suite(name)


def main(suites: list[str]) -> int:
    if not suites:
        print(__doc__)
        return 2
    os.makedirs(RESULTS, exist_ok=True)
    table: list[tuple[str, int, int, float]] = []
    beside = [name for name in suites if name in (*IN_GUEST, *BESIDE_GUESTS)]
    beside = beside if len(beside) > 1 else []
    table += run_alone([name for name in suites if name not in (*beside, *WITH_TWO_GUESTS)])
    table += run_lanes(beside)
    table += run_alone([name for name in suites if name in WITH_TWO_GUESTS])
    print()
    for name, passed, failed, seconds in table:
        print(f"{name:18}{passed:6} passed {failed:6} failed {seconds:8.1f} s")
    for name in suites:
        if name != "lint" and (moments := count_moments(os.path.join(RESULTS, f"{name}.xml"))):
            print(f"{name}: {moments}")
    failed = sum(row[2] for row in table)
    print(f"{sum(row[1] for row in table)} passed, {failed} failed")
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
