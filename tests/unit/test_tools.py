"""The test tools: no failure may be counted as passed, and `need` installs what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tools import suites

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest">{cases}</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("cases", "counts"),
    [
        ("", (0, 0)),
        ("<testcase name='a'/><testcase name='b'><system-out>x</system-out></testcase>", (2, 0)),
        ("<testcase name='a'/><testcase name='b'><failure message='no'/></testcase>", (1, 1)),
        ("<testcase name='a'><error message='no'/></testcase>", (0, 1)),
        ("<testcase name='a'><skipped message='x'/></testcase><testcase name='b'/>", (1, 1)),
    ],
)
def test_what_has_not_passed_has_failed(tmp_path: Path, cases: str, counts: tuple[int, int]) -> None:
    path = os.path.join(tmp_path, "junit.xml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(JUNIT.format(cases=cases))
    assert suites.junit_counts(path) == counts


def moments(**counts: int) -> str:
    """The properties of a suite as JUnit XML; an underscore in a name stands for a space."""
    named = [f"<property name='moments {name.replace('_', ' ')}' value='{count}'/>" for name, count in counts.items()]
    return f"<properties>{''.join(named)}<property name='else' value='x'/></properties>"


def test_moments_are_summed_into_one_line(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(
        JUNIT.format(cases=moments(shared_ADD_a=30, shared_ADD_c=30) + moments(shared_ADD_a=2, exclusive_GC_b=7))
    )
    line = suites.count_moments(str(path))
    assert line.startswith("69 moments of death and error passed (a: ")
    assert line.endswith("): shared ADD: a 32, c 30; exclusive GC: b 7")
    path.write_text(JUNIT.format(cases="<testcase/>"))
    assert suites.count_moments(str(path)) == ""
    assert suites.count_moments(str(tmp_path / "none.xml")) == ""


class Project:
    """A temporary tree with suites.py and a tests folder, run as `make test` runs it."""

    def __init__(self, root: str) -> None:
        self.root = root
        os.makedirs(os.path.join(root, "tests", "tools"))
        shutil.copy(suites.__file__, self.script)

    @property
    def script(self) -> str:
        return os.path.join(self.root, "tests", "tools", "suites.py")

    def test_file(self, suite: str, text: str, name: str = "test_it.py") -> None:
        folder = os.path.join(self.root, "tests", suite)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)

    def run(self, *names: str) -> tuple[int, str]:
        """Exit status and last line."""
        status, lines = self.run_whole(*names)
        return status, lines[-1]

    def run_whole(self, *names: str) -> tuple[int, list[str]]:
        """Exit status and all lines."""
        command = [os.path.join(ROOT, ".venv", "bin", "python"), self.script, *names]
        # Without plugins and worker processes this nested pytest starts in a fraction of the time.
        environ = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_XDIST_AUTO_NUM_WORKERS": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(os.path.join(tmp_path, "project"))


def test_suites_are_summed(project: Project) -> None:
    project.test_file("unit", "def test_a(): pass\ndef test_b(): pass\n")
    project.test_file("ipam", "def test_c(): pass\n")
    assert project.run("unit", "ipam") == (0, "3 passed, 0 failed")


def test_a_failure_does_not_stop_the_next_suite(project: Project) -> None:
    project.test_file("unit", "def test_a(): assert False\n")
    project.test_file("ipam", "def test_c(): pass\n")
    assert project.run("unit", "ipam") == (1, "1 passed, 1 failed")


@pytest.mark.parametrize(
    "text",
    [
        "",  # no test at all
        "import nothing_of_that_name\n",  # cannot be collected
        "import os\ndef test_a(): os._exit(0)\n",  # exits with status 0 and without results
        "import unittest\ndef test_a(): raise unittest.SkipTest\n",
    ],
)
def test_a_suite_that_shows_nothing_has_failed(project: Project, text: str) -> None:
    project.test_file("unit", text)
    assert project.run("unit") == (1, "0 passed, 1 failed")


def test_a_suite_whose_programs_cannot_be_built_has_failed(project: Project) -> None:
    project.test_file("cluster/pods", "def test_a(): pass\n")
    path = os.path.join(project.root, "tests", "tools", "need")
    with open(path, "w", encoding="utf-8") as file:
        file.write('#!/bin/sh\n[ "$*" = cluster ] && exit 1\n')
    os.chmod(path, 0o700)
    assert project.run("cluster") == (1, "0 passed, 1 failed")


def test_a_lab_that_fails_after_its_last_test_has_failed(project: Project) -> None:
    """After a kernel warning, for example: all tests passed, but the exit status is not 0."""
    project.test_file("lab", "")
    path = os.path.join(project.root, "tests", "lab", "pytest")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\ncat >"$JUNIT" <<E\n{JUNIT.format(cases="<testcase/>")}\nE\nexit 90\n')
    os.chmod(path, 0o700)
    assert project.run("attach") == (1, "1 passed, 1 failed")


def test_the_other_kernels_sample_is_a_suite_of_its_own(project: Project) -> None:
    """It gets a kernel and a sample, the full suite does not; the count of moments is the line before the last."""
    project.test_file("lab", "")
    path = os.path.join(project.root, "tests", "lab", "pytest")
    count = "<properties><property name='moments $KERNEL ADD a' value='$LAB_EVERY'/></properties>"
    junit = JUNIT.format(cases=f"<testcase/>{count}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nset -u\ncat >"$JUNIT" <<E\n{junit}\nE\n')
    os.chmod(path, 0o700)
    status, (*_, moment_line, last) = project.run_whole("matrix-6.1")
    assert (status, last) == (0, "1 passed, 0 failed")
    assert moment_line.startswith("matrix-6.1: 7 moments")
    assert moment_line.endswith(": 6.1 ADD: a 7")
    assert project.run("matrix") == (1, "0 passed, 1 failed")  # set -u: KERNEL is not set


def test_a_suite_that_is_not_there_has_failed(project: Project) -> None:
    project.test_file("unit", "def test_a(): pass\n")
    assert project.run("frobnicate", "unit") == (1, "1 passed, 1 failed")


def test_old_results_do_not_count(project: Project) -> None:
    project.test_file("unit", "def test_a(): pass\n")
    assert project.run("unit") == (0, "1 passed, 0 failed")
    project.test_file("unit", "import os\nos._exit(0)\n")
    assert project.run("unit") == (1, "0 passed, 1 failed")


def test_each_folder_of_the_lab_is_a_suite() -> None:
    lab = Path(ROOT, "tests/lab")
    assert {path.parent.name for path in lab.glob("*/test_*.py")} == set(suites.LAB_SUITES)
    assert list(lab.glob("test_*.py")) == []
    assert [path for paths in suites.IN_GUEST.values() for path in paths if not Path(ROOT, path).exists()] == []


def test_make_runs_each_suite_of_the_lab() -> None:
    recipes = Path(ROOT, "Makefile").read_text().replace("\\\n", " ").splitlines()
    words = {word for line in recipes if "tests/tools/suites.py" in line for word in line.split()}
    assert {*suites.IN_GUEST, *suites.SIDE_BY_SIDE} - {"conformance", "build-conformance"} <= words


class System:
    """A PATH of fake programs, and the few real ones that `need` itself calls."""

    REAL = ("bash", "dirname", "mkdir", "flock", "env", "tail", "cat", "sort", "head", "nsenter")

    def __init__(self, root: str) -> None:
        self.root = root
        self.bin = os.path.join(root, "bin")
        self.log = os.path.join(root, "log")
        os.makedirs(self.bin)
        for name in self.REAL:
            os.symlink(shutil.which(name) or name, os.path.join(self.bin, name))

    def program(self, name: str, text: str) -> None:
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/bash\n{text}\n")
        os.chmod(path, 0o700)

    def logging(self, name: str, then: str = "") -> None:
        self.program(name, f'echo "{name} $*" >>"{self.log}"\n{then}')

    def need(self, group: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": self.bin, "HOME": self.root, "XDG_CACHE_HOME": os.path.join(self.root, "cache")}
        command = [os.path.join(ROOT, "tests", "tools", "need"), group]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)

    def calls(self) -> list[str]:
        with open(self.log, encoding="utf-8") as file:
            return file.read().splitlines()


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(os.path.join(tmp_path, "system"))


def test_without_apt_the_missing_is_named(system: System) -> None:
    done = system.need("netns")
    assert done.returncode == 1
    assert "missing:" in done.stderr
    assert "iputils-ping" in done.stderr
    assert "util-linux" not in done.stderr
    assert done.stdout == ""


def test_without_root_and_sudo_the_missing_is_named(system: System) -> None:
    system.program("id", "echo 1000")
    system.logging("apt-get")
    done = system.need("netns")
    assert done.returncode == 1
    assert "neither root nor sudo" in done.stderr
    assert "iputils-ping" in done.stderr
    assert not os.path.exists(system.log)


def test_sudo_installs_what_is_missing_and_only_that(system: System) -> None:
    system.program("id", "echo 1000")
    system.program("sudo", 'exec "$@"')
    system.logging("apt-get", f'for t in ip ping; do echo >"{system.bin}/$t"; /bin/chmod +x "{system.bin}/$t"; done')
    done = system.need("netns")
    assert done.returncode == 0, done.stderr
    (call,) = system.calls()
    assert "install --no-install-recommends -y" in call
    assert call.split().count("iputils-ping") == 1
    assert "util-linux" not in call.split()
    assert system.need("netns").stderr == ""
    assert len(system.calls()) == 1


def test_old_lists_are_fetched_once(system: System) -> None:
    system.program("id", "echo 0")
    system.logging("apt-get", "exit 100")
    done = system.need("netns")
    assert done.returncode == 1
    assert "apt-get could not install" in done.stderr
    words = [call.split() for call in system.calls()]
    assert ["install" if "install" in call else call[-1] for call in words] == ["install", "update"]
