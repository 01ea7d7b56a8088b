"""Run test suites one after the other, and sum their junit files into one line.

    suites.py SUITE...    lint, or a folder of tests: unit ipam fuzz netns manifests docs packaging lab conformance;
                          matrix: what lab leaves out; build, build-all, build-conformance: dist/ib-sriov in the place
                          of the source

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
    "lab": ["tests/lab", "-m", "not matrix"],
    "matrix": ["tests/lab", "-m", "matrix"],
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
# For a suite on a slow machine; one that hangs must still end before CI's own limit.
GUEST_SECONDS = "2700"
# Each of these counts as one test.
LINT = {
    "ruff": [sys.executable, "-m", "ruff", "check", "--quiet"],
    "mypy": [sys.executable, "-m", "mypy", "--no-error-summary"],
    "shellcheck": [os.path.join(ROOT, "tests", "tools", "check-scripts")],
}


def run(command: list[str], **environ: str) -> int:
    return subprocess.run(command, cwd=ROOT, check=False, env=os.environ | {"PYTHONPATH": ROOT} | environ).returncode


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


def lint() -> tuple[int, int]:
    statuses = {name: run(command) for name, command in LINT.items()}
    for name, status in statuses.items():
        print(f"{name}: {'ok' if status == 0 else f'failed ({status})'}", flush=True)
    failed = sum(status != 0 for status in statuses.values())
    return len(statuses) - failed, failed


def pytest_suite(name: str) -> tuple[int, int]:
    junit = os.path.join(RESULTS, f"{name}.xml")
    folder = os.path.join("tests", name)
    environ: dict[str, str] = {}
    if os.path.exists(junit):
        os.remove(junit)
    if name in IN_GUEST:
        os.environ["JUNIT"] = junit
        os.environ.setdefault("TIMEOUT", GUEST_SECONDS)
        if name.startswith("build"):
            environ["IB_SRIOV_PLUGIN"] = ONE_FILE
        command = [os.path.join(ROOT, "tests", "lab", "pytest"), *IN_GUEST[name]]
    else:
        command = [*PYTEST, folder, f"--junitxml={junit}"]
        if name == "packaging":
            command.append("--ignore=tests/packaging/guest")
        if name in {"netns", "packaging"}:
            command = as_root(command)
    try:
        status = run(command, **environ)
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
        print(f"{name:8}{passed:6} passed {failed:6} failed {seconds:8.1f} s")
    failed = sum(row[2] for row in table)
    print(f"{sum(row[1] for row in table)} passed, {failed} failed")
    return int(failed != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
