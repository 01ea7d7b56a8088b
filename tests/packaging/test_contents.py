"""What is in the programs: all that they need, nothing without its terms, the same each time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import BUILDS, DIST, MACHINES, PROJECT


def readelf(option: str, path: Path) -> str:
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        ["readelf", option, "-W", path], capture_output=True, text=True, check=True, env=environ
    ).stdout


def segments(path: Path) -> list[tuple[str, str]]:
    """Type and permissions of each program header."""
    return re.findall(r"^  ([A-Z_]+) +(?:0x\w+ +){5}([R ][W ][E ])", readelf("-l", path), re.MULTILINE)


@pytest.mark.parametrize("machine", MACHINES)
def test_one_statically_linked_executable(machine: str) -> None:
    path = BUILDS[machine]
    header = readelf("-h", path)
    assert re.search(r"Type: +EXEC", header)
    assert re.search({"x86_64": "Machine: .*X86-64", "aarch64": "Machine: .*AArch64"}[machine], header)
    assert not {"INTERP", "DYNAMIC"} & {kind for kind, _ in segments(path)}
    assert "no dynamic section" in readelf("-d", path)


def test_the_plain_name_is_this_machines_program(build: Path) -> None:
    assert (DIST / "ib-sriov").samefile(build)


def test_kernels_from_3_10_on_start_it(each_build: Path) -> None:
    """The C library's start refuses older kernels than the file's note says; aarch64's note says 3.7."""
    found = re.search(r"OS: Linux, ABI: (\d+)\.(\d+)\.\d+", readelf("-n", each_build))
    assert found
    assert (int(found[1]), int(found[2])) <= (3, 10)


def test_how_the_programs_are_linked(each_build: Path) -> None:
    """As docs/hardening.md says."""
    found = segments(each_build)
    assert [permissions for kind, permissions in found if kind == "GNU_STACK"] == ["RW "]
    assert not [permissions for _, permissions in found if permissions == "RWE"]
    assert [permissions for kind, permissions in found if kind == "GNU_RELRO"] == ["R  "]


def test_pages_of_any_size_are_served(each_build: Path) -> None:
    """aarch64 has kernels with pages of 64 KiB: what differs in its permissions must not share one."""
    aligned = {int(found, 16) for found in re.findall(r"^  LOAD .* (0x\w+)$", readelf("-l", each_build), re.MULTILINE)}
    assert aligned == {0x1000 if each_build.name.endswith("x86_64") else 0x10000}


def test_no_path_of_the_build_machine_is_inside(each_build: Path) -> None:
    data = each_build.read_bytes()
    with zipfile.ZipFile(each_build) as archive:
        data += b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".pyc"))
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    for path in (str(PROJECT), os.path.join(cache, "ib-sriov")):
        assert path.encode() not in data


@pytest.fixture
def bill(each_build: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{each_build}.cdx.json").read_text())
    return found


def test_the_bill_of_materials(bill: dict[str, Any], each_build: Path) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    found = {item["name"].lower(): item for item in bill["components"]}
    assert {"pyroute2", "click", "rich", "typing_extensions"} <= found.keys()  # the last is drawn in by click
    assert {"python3.11", "rdma-core", "cython"} <= found.keys()  # compiled by the build
    linked = {"libpython3.11-dev", "libssl-dev", "zlib1g-dev", "libexpat1-dev", "libnl-3-dev", "libc6-dev"}
    assert linked <= found.keys()
    assert [name for name in found if name.startswith("libgcc")]
    for item in found.values():
        assert item["version"], item
        assert item["licenses"], item
        assert item["purl"].startswith("pkg:"), item
        ((algorithm, digest),) = [(entry["alg"], entry["content"]) for entry in item["hashes"]]
        assert algorithm == "SHA-256", item
        assert re.fullmatch("[0-9a-f]{64}", digest), item
        assert item["properties"], item
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", entry["value"]) for entry in item["properties"]), item
    properties = bill["metadata"]["component"]["properties"]
    (digest,) = [item["value"] for item in properties if item["name"] == f"file:{each_build.name}"]
    assert digest == "sha256:" + hashlib.sha256(each_build.read_bytes()).hexdigest()


def test_all_that_was_declared_is_listed(bill: dict[str, Any]) -> None:
    """Requirements of setup.cfg, whether from PyPI or from the distribution."""
    text = (PROJECT / "setup.cfg").read_text()
    block = text[text.index("install_requires") : text.index("[options.packages.find]")]
    wanted = {name.lower() for name in re.findall(r"^ {4}([A-Za-z][\w-]*)", block, re.MULTILINE)}
    listed = " ".join(item["name"].lower() for item in bill["components"])
    # PyYAML is python3-yaml where the distribution's is taken.
    assert {name for name in wanted if name.removeprefix("py") not in listed} == set()


def test_every_component_has_its_licence_text(bill: dict[str, Any], each_build: Path) -> None:
    text = (DIST / "LICENSES.txt").read_text()
    for item in bill["components"]:
        assert f"{item['name']} {item['version']}" in text
    assert "Apache License" in text
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in text.upper()
    for mark in ("GNU C Library", "OpenIB.org BSD", "libnl", "OpenSSL"):
        assert mark in text
    with zipfile.ZipFile(each_build) as archive:
        inside = archive.read("LICENSES.txt").decode()
        assert all(f"{item['name']} {item['version']}" in inside for item in bill["components"])
        assert json.loads(archive.read("sbom.cdx.json"))["components"] == bill["components"]


# Modules of packaging/program, and those of the two packages: they are ours.
OWN = re.compile(r"(ib_sriov_cni|ipam)(\..*)?|_ib_sriov_(boot|start)|pyverbs")


def archived(program: Path) -> set[str]:
    """Dotted names of the modules in a program's archive, and paths of the other files."""
    with zipfile.ZipFile(program) as archive:
        names = archive.namelist()
    modules = {name for name in names if name.endswith(".pyc")}
    return {name.removesuffix(".pyc").replace("/", ".").removesuffix(".__init__") for name in modules} | (
        set(names) - modules
    )


def frozen(program: Path) -> set[str]:
    """Dotted names of the modules in the program's data: each code object has the name of its source file."""
    # libpython's own have names like "<frozen os>". Constants that look like a file's name are none.
    constants = {"filename", "__init__"}
    names = re.findall(rb"\0([A-Za-z_][\w/]*\.py)\0", program.read_bytes())
    found = {name.decode().removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in names}
    return found - constants


def test_every_module_is_in_the_bill(bill: dict[str, Any], each_build: Path) -> None:
    listed = {
        entry["name"].removeprefix("file:") for item in bill["components"] for entry in item.get("properties", [])
    }
    in_archive, in_program = archived(each_build), frozen(each_build)
    assert {"typing_extensions", "click.core", "LICENSES.txt"} <= in_archive
    assert {"json.decoder", "pyroute2.netlink", "ib_sriov_cni.__main__", "pyverbs.utils"} <= in_program
    assert not in_program & in_archive
    foreign = {name for name in in_archive | in_program if not OWN.fullmatch(name)}
    assert {name for name in foreign - listed if not name.startswith("pyverbs-")} == {"LICENSES.txt", "sbom.cdx.json"}


def test_nothing_of_pyinstaller_is_inside(each_build: Path) -> None:
    names = archived(each_build) | frozen(each_build)
    assert {name for name in names if re.match("pyi|_pyi|PyInstaller", name)} == set()
    for mark in (b"_MEIPASS", b"pyi-runtime-tmpdir", b"MEI\014\013\012\013\016"):
        assert mark not in each_build.read_bytes()


def pinned() -> dict[str, str]:
    """Versions in packaging/requirements.txt, by name as the index knows it."""
    text = (PROJECT / "packaging/requirements.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE))


def test_what_came_from_an_index_has_the_pinned_version(bill: dict[str, Any]) -> None:
    found = {item["purl"] for item in bill["components"] if item["purl"].startswith("pkg:pypi/")}
    assert len(found) >= 10
    assert found <= {f"pkg:pypi/{name}@{version}" for name, version in pinned().items()}
    (tool,) = bill["metadata"]["tools"]["components"]
    assert (tool["name"], tool["version"]) == ("PyInstaller", pinned()["pyinstaller"])


def test_pip_accepts_the_pins() -> None:
    """Each has digests, and so has everything that it needs."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--require-hashes", "--dry-run"]
    done = subprocess.run(
        [*command, "-r", PROJECT / "packaging/requirements.txt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout  # what builds is what is pinned


def test_every_provider_is_linked(bill: dict[str, Any]) -> None:
    """All of rdma-core's, whatever devices the build machine has: the linker has read each one's library."""
    (rdma,) = [item for item in bill["components"] if item["name"] == "rdma-core"]
    names = " ".join(entry["name"] for entry in rdma["properties"])
    found = set(re.findall(r"file:lib(\w+)(?:-rdmav\d+)?\.a", names))
    assert {"mlx5", "mlx4", "mthca", "hfi1verbs", "ipathverbs", "rxe", "irdma", "bnxt_re", "ibverbs"} <= found


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that a folder's SHA256SUMS lists."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def test_digests_are_those_of_the_files() -> None:
    files = [path for path in DIST.rglob("*") if path.is_file() and not path.name.startswith("SHA256SUMS")]
    assert sums(DIST) == {str(path.relative_to(DIST)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_wheel_and_sdist() -> None:
    (wheel,) = DIST.glob("*.whl")
    (sdist,) = DIST.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"ib_sriov_cni/__main__.py", "ipam/host_local/plugin.py"} <= names
    assert not [name for name in names if name.startswith("tests")]
    with tarfile.open(fileobj=io.BytesIO(sdist.read_bytes())) as archive_:
        assert any(name.endswith("/setup.cfg") for name in archive_.getnames())


def test_a_second_build_is_the_same(tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = subprocess.run([PROJECT / "packaging" / "build", again], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # What `make image` and `make manifests` add is in the first folder alone.
    first = {
        name: digest for name, digest in sums(DIST).items() if not name.startswith(("ib-sriov-image", "kubernetes/"))
    }
    assert sums(again) == first


SERIAL_NUMBER = """
import json, sys
sys.path[:0] = [sys.argv[1], "."]
from sbom import Part, document
for names in ("ab", "ba"):
    part = Part(name="p", version="1", purl="pkg:deb/p@1", description="", licences=[], text="")
    part.files = {name: f"digest of {name}" for name in names}
    print(json.loads(document("1", [part], {}))["serialNumber"])
"""


def test_the_serial_number_is_that_of_the_content() -> None:
    """Not of the order in which the files were found, which is that of their paths on the machine that builds."""
    command = [sys.executable, "-c", SERIAL_NUMBER, str(PROJECT / "packaging")]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
    done = subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True, check=True)
    one, other = done.stdout.split()
    assert one == other
