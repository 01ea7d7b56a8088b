"""The static program answers wherever Linux runs: whatever the C library, the mounts, the kernel's age and the limits.

Each place (places.py) is asked for the same: VERSION, `version`, a configuration, an ADD that is refused, and doctor,
which opens an RDMA device by pyverbs and libibverbs.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.packaging.places import ADD, CONF, PLACES, RDMA, Place, Places, compile_restrict

STDIN = json.dumps(CONF).encode()
# What doctor can see in each place that has a /dev.
SEEN = ("hca", "sriov", "vf-guid-double", "state-dir", "state-modes", "records", "leases", "kubelet")
# A process that is refused what the restrictions take away, and nothing else.
TRY = """
import errno, mmap, os, resource

def fault(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]

print(
    fault(lambda: os.memfd_create("name")),
    fault(lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR)),
    fault(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)),
    fault(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)),
    fault(lambda: os.getpid()),
    resource.getrlimit(resource.RLIMIT_NOFILE)[0],
)
"""


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return PLACES[request.param](Places(folder=tmp_path_factory.mktemp("place")))


def test_version(place: Place) -> None:
    done = place.run(CNI_COMMAND="VERSION")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["supportedVersions"]


def test_versions_of_what_is_inside(place: Place) -> None:
    done = place.run("version", "-o", "json")
    assert (done.returncode, done.stderr) == (0, b"")
    shown = json.loads(done.stdout)
    assert shown["packed"] is True
    assert all(shown[name] for name in ("pyverbs", "pyroute2", "click", "rich", "PyYAML"))


def test_a_configuration(place: Place) -> None:
    done = place.run("config", "validate", "-", "-o", "json", stdin=STDIN)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"0000:99:00.7" in done.stdout


def test_an_add_is_refused(place: Place) -> None:
    done = place.run(stdin=STDIN, **ADD)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["code"] == place.refusal, done.stdout


def test_doctor(place: Place) -> None:
    found = place.findings()
    if not place.has_dev:
        # Its readers are processes, whose standard input is /dev/null.
        assert {name for name, said in found.items() if not said.startswith("SKIP")} == set()
        return
    assert {name: found[name] for name in SEEN if not found[name].startswith("OK")} == {}
    # libibverbs has looked: it does not know the made device. Without a /proc there is no namespace to look in.
    expected = f"Failed to find device {RDMA}" if place.has_proc else "No such file or directory"
    assert expected in found["verbs"]


@pytest.mark.parametrize(
    ("restrictions", "expected"),
    [
        ((), "None None None None None"),
        (("--old-kernel",), "ENOSYS EISDIR None None None"),
        (("--no-new-code",), "None None EPERM None None"),
        (("--files", "32"), "None None None None None 32"),
    ],
)
def test_what_the_restrictions_do(restrictions: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    command = [str(compile_restrict(tmp_path)), *restrictions, "/usr/bin/python3", "-c", TRY]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(expected), (done.stdout, done.stderr)
