"""Run test suites one after the other, and sum their junit files into one line.

    suites.py SUITE...    lint, or a folder of tests: unit ipam fuzz netns manifests docs packaging lab conformance;
                          what lab leaves out: matrix; matrix-6.1, a sample of it on the other kernel; udev, in a guest
                          with a real udevd; build, build-all, build-conformance: dist/ib-sriov in the source's place

A suite that fails does not keep the next from running. The last line is "N passed, N failed"; a
skip, an error, a suite that is empty or died before it wrote its results all count as failed.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
RESULTS = os.path.join(ROOT, ".test-results")
PYTEST = [sys.executable, "-m", "pytest", "-q"]
# The suites that run in the lab's virtual machine.
IN_GUEST = {
    "lab": ["tests/lab", "-m", "not matrix and not udev"],
    "matrix": ["tests/lab", "-m", "matrix"],
    "udev": ["tests/lab/test_udev.py"],
    "matrix-6.1": ["tests/lab", "-m", "matrix"],
    "conformance": ["tests/conformance"],
    "build": ["tests/packaging/guest", *(f"tests/lab/test_attach_{name}.py" for name in ("main", "guid", "del"))],
    "build-all": [
        "tests/packaging/guest",
        *sorted(glob.glob("tests/lab/test_attach_*.py", root_dir=ROOT)),
        *("-m", "not matrix"),
    ],
    "build-conformance": ["tests/conformance"],
}
# What these suites call is the one file that `make build` made.
ONE_FILE = os.path.join(ROOT, "dist", "ib-sriov")
# What a suite of those has in its environment besides.
SETTINGS = {
    "matrix-6.1": {"KERNEL": "6.1", "LAB_EVERY": "7"},
    **{name: {"IB_SRIOV_PLUGIN": ONE_FILE} for name in IN_GUEST if name.startswith("build")},
}
# For a suite on a slow machine; one that hangs must still end before CI's own limit.
GUEST_SECONDS = "2700"
# Each of these counts as one test.
LINT = {
    "ruff": [sys.executable, "-m", "ruff", "check", "--quiet"],
    "mypy": [sys.executable, "-m", "mypy", "--no-error-summary"],
    "shellcheck": [os.path.join(ROOT, "tests", "tools", "check-scripts")],
}


def run(command: list[str], settings: dict[str, str] | None = None) -> int:
    environ = os.environ | {"PYTHONPATH": ROOT} | (settings or {})
    return subprocess.run(command, cwd=ROOT, check=False, env=environ).returncode


def as_root(command: list[str]) -> list[str]:
    """The command with root's rights: network namespaces need them."""
    if os.geteuid() == 0:
        return command
    return ["sudo", *([] if sys.stdin.isatty() else ["-n"]), "--preserve-env=HOME,XDG_CACHE_HOME,PATH", *command]


def junit_counts(path: str) -> tuple[int, int]:
    """(passed, failed) of a junit file; what is neither passed nor failed is failed."""
    passed = failed = 0
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314  our own pytest wrote it
        if case.find("failure") is None and case.find("error") is None and case.find("skipped") is None:
            passed += 1
        else:
            failed += 1
    return passed, failed


def count_moments(path: str) -> str:
    """One line of how many moments of death and error the tests went through; "" if none did.

    They are properties of the suite called "moments MODE COMMAND LETTER", noted by tests that passed
    (tests/lab/test_attach_steps.py).
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


def pytest_suite(name: str) -> tuple[int, int]:
    junit = os.path.join(RESULTS, f"{name}.xml")
    folder = os.path.join("tests", name)
    if os.path.exists(junit):
        os.remove(junit)
    if name in IN_GUEST:
        os.environ["JUNIT"] = junit
        os.environ["UDEV"] = str(int(name == "udev"))
        os.environ.setdefault("TIMEOUT", GUEST_SECONDS)
        command = [os.path.join(ROOT, "tests", "lab", "pytest"), *IN_GUEST[name]]
    else:
        command = [*PYTEST, folder, f"--junitxml={junit}"]
        if name == "packaging":
            command.append("--ignore=tests/packaging/guest")
        if name in {"netns", "packaging"}:
            command = as_root(command)
    try:
        status = run(command, SETTINGS.get(name))
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
    # A status without a failed test: a crash after the last one, a kernel warning, an empty suite.
    return passed, failed or int(status != 0 or passed == 0)


def main(suites: list[str]) -> int:
    if not suites:
        print(__doc__)
        return 2
    os.makedirs(RESULTS, exist_ok=True)
    table: list[tuple[str, int, int, float]] = []
    for name in suites:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        passed, failed = lint() if name == "lint" else pytest_suite(name)
        table.append((name, passed, failed, time.monotonic() - start))
    print()
    for name, passed, failed, seconds in table:
        print(f"{name:11}{passed:6} passed {failed:6} failed {seconds:8.1f} s")
    for name in suites:
        if name != "lint" and (moments := count_moments(os.path.join(RESULTS, f"{name}.xml"))):
            print(f"{name}: {moments}")
    failed = sum(row[2] for row in table)
    print(f"{sum(row[1] for row in table)} passed, {failed} failed")
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
