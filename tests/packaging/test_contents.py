"""What is in the builds: nothing newer than this host's C library, nothing without its terms, the same each time."""

from __future__ import annotations

import hashlib
import io
import json
import marshal
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.packaging.conftest import BUILDS, DIST, PROJECT

# What every process of a glibc host has; anything else that a file needs comes with it.
OF_THE_HOST = re.compile(r"(libc|libm|libdl|libpthread|librt|libutil|libresolv)\.so\.\d+|ld-linux.*")


def objdump(option: str, path: Path) -> str:
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(["objdump", option, path], capture_output=True, text=True, check=True, env=environ).stdout


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def elf_files() -> list[Path]:
    """Every ELF file of the folder, and the one file; those that it has inside are the same."""
    folder = BUILDS["one folder"].parent
    return [BUILDS["one file"], *[path for path in sorted(folder.rglob("*")) if path.is_file() and is_elf(path)]]


def test_there_are_files() -> None:
    names = {path.name for path in elf_files()}
    assert len(names) > 30
    assert {"libibverbs.so.1", "libmlx5.so.1", "librxe-rdmav34.so", "pyverbs.device.so"} <= names


def test_no_newer_c_library_is_needed_than_the_build_hosts() -> None:
    host = version((os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc "))
    newer = {}
    for path in elf_files():
        wanted = [version(found) for found in re.findall(r"\bGLIBC_(\d+(?:\.\d+)+)", objdump("-T", path))]
        if max(wanted, default=()) > host:
            newer[path.name] = max(wanted)
    assert newer == {}


def test_the_one_file_runs_with_the_c_library_that_its_readme_says() -> None:
    readme = (PROJECT / "packaging" / "README.md").read_text()
    said = re.search(r"one file needs glibc (\d+\.\d+)", readme)
    assert said
    wanted = re.findall(r"\bGLIBC_(\d+(?:\.\d+)+)", objdump("-T", BUILDS["one file"]))
    assert max(version(found) for found in wanted) == version(said.group(1))


def test_the_one_file_needs_nothing_but_the_c_library() -> None:
    needed = re.findall(r"NEEDED\s+(\S+)", objdump("-p", BUILDS["one file"]))
    assert needed
    assert [name for name in needed if not OF_THE_HOST.fullmatch(name)] == []


def test_what_the_folders_files_need_is_there() -> None:
    files = {path.name for path in elf_files()}
    missing = {
        (path.name, name)
        for path in elf_files()
        for name in re.findall(r"NEEDED\s+(\S+)", objdump("-p", path))
        if not OF_THE_HOST.fullmatch(name) and name not in files
    }
    assert missing == set()


def flags(path: Path) -> dict[str, Any]:
    """What the headers of an ELF file claim."""
    headers, kind = objdump("-p", path), objdump("-f", path)
    number = {name: int(value, 16) for name, value in re.findall(r"^ +(FLAGS(?:_1)?) +(0x\w+)", headers, re.MULTILINE)}
    segments = re.findall(r"^ *(\w+) off .*\n.* flags (...)$", headers, re.MULTILINE)
    return {
        "executable stack": [permissions for name, permissions in segments if name == "STACK"] != ["rw-"],
        "writable and executable": any(permissions == "rwx" for _, permissions in segments),
        "RELRO": any(name == "RELRO" for name, _ in segments),
        "BIND_NOW": bool(number.get("FLAGS", 0) & 8 or number.get("FLAGS_1", 0) & 1),
        "PIE": "DYNAMIC" in kind and "EXEC_P" not in kind,
    }


def test_how_the_programs_are_linked(build: Path) -> None:
    """As docs/hardening.md says."""
    claimed = {"executable stack": False, "writable and executable": False, "RELRO": True, "BIND_NOW": True}
    assert flags(build) == claimed | {"PIE": False}


def test_no_shared_object_wants_an_executable_stack() -> None:
    wrong = {path.name: flags(path) for path in elf_files()}
    wrong = {name: found for name, found in wrong.items() if found["executable stack"] or not found["RELRO"]}
    # The empty library that stands for libpython has nothing that is relocated.
    assert {name for name in wrong if not name.startswith("libpython3.")} == set()
    assert not any(found["executable stack"] or found["writable and executable"] for found in wrong.values())


def test_no_path_of_the_build_machine_is_inside(one_file: Path) -> None:
    data = one_file.read_bytes()
    assert str(PROJECT).encode() not in data
    with zipfile.ZipFile(one_file) as archive:
        inside = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".pyc"))
    assert str(PROJECT).encode() not in inside


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DIST / "ib-sriov.cdx.json").read_text())
    return found


def test_the_bill_of_materials(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    found = {item["name"].lower(): item for item in bill["components"]}
    assert {"pyroute2", "click", "rich", "python3-pyverbs", "libibverbs1", "ibverbs-providers"} <= found.keys()
    assert "typing_extensions" in found  # no requirement of ours: an import in click draws it in
    assert any("python3" in name and "pyverbs" not in name for name in found)
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
    (digest,) = [item["value"] for item in properties if item["name"] == "file:ib-sriov"]
    assert digest == "sha256:" + hashlib.sha256(BUILDS["one file"].read_bytes()).hexdigest()


def test_all_that_was_declared_is_listed(bill: dict[str, Any]) -> None:
    """Requirements of setup.cfg, whether from PyPI or from the distribution."""
    text = (PROJECT / "setup.cfg").read_text()
    block = text[text.index("install_requires") : text.index("[options.packages.find]")]
    wanted = {name.lower() for name in re.findall(r"^ {4}([A-Za-z][\w-]*)", block, re.MULTILINE)}
    listed = " ".join(item["name"].lower() for item in bill["components"])
    # PyYAML is python3-yaml where the distribution's is taken.
    assert {name for name in wanted if name.removeprefix("py") not in listed} == set()


def test_every_component_has_its_licence_text(bill: dict[str, Any], one_file: Path) -> None:
    text = (DIST / "LICENSES.txt").read_text()
    for item in bill["components"]:
        assert f"{item['name']} {item['version']}" in text
    assert "Apache License" in text
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in text.upper()
    with zipfile.ZipFile(one_file) as archive:
        assert archive.read("LICENSES.txt").decode() == text
        assert json.loads(archive.read("sbom.cdx.json"))["components"] == bill["components"]


# Modules of packaging/program, and those of the two packages: they are ours.
OWN = re.compile(r"(ib_sriov_cni|ipam)(\..*)?|_ib_sriov_start|_ib_sriov_tables|pyverbs")


def archived(program: Path) -> set[str]:
    """Dotted names of the modules in a program's archive, and paths of the other files."""
    with zipfile.ZipFile(program) as archive:
        names = archive.namelist()
    modules = {name for name in names if name.endswith(".pyc")}
    return {name.removesuffix(".pyc").replace("/", ".").removesuffix(".__init__") for name in modules} | (
        set(names) - modules
    )


def frozen(program: Path) -> set[str]:
    """Dotted names of the frozen modules: wherever marshalled code of a module begins, and names a source file."""
    data, found, end = program.read_bytes(), set(), 0
    for match in re.finditer(rb"[c\xe3]\0{12}", data):  # code that takes no arguments
        if match.start() < end:
            continue  # in a module that was read
        file = io.BytesIO(data)
        file.seek(match.start())
        try:
            code = marshal.load(file)  # noqa: S302  our own
        except (ValueError, EOFError, TypeError):
            continue
        # libpython's own have names like "<frozen os>".
        if isinstance(code, CodeType) and code.co_name == "<module>" and code.co_filename.endswith(".py"):
            found.add(code.co_filename.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
            end = file.tell()
    return found


def test_every_module_is_in_the_bill(bill: dict[str, Any], build: Path) -> None:
    listed = {
        entry["name"].removeprefix("file:") for item in bill["components"] for entry in item.get("properties", [])
    }
    in_archive, in_program = archived(build), frozen(build)
    assert {"typing_extensions", "click.core", "LICENSES.txt"} <= in_archive
    assert {"json.decoder", "pyroute2.netlink", "ib_sriov_cni.__main__", "_ib_sriov_tables"} <= in_program
    assert not in_program & in_archive
    foreign = {name for name in in_archive | in_program if not OWN.fullmatch(name)}
    assert foreign - listed == {"LICENSES.txt", "sbom.cdx.json"}


def test_nothing_of_pyinstaller_is_inside(build: Path) -> None:
    names = archived(build) | frozen(build)
    assert {name for name in names if re.match("pyi|_pyi|PyInstaller", name)} == set()
    for mark in (b"_MEIPASS", b"pyi-runtime-tmpdir", b"MEI\014\013\012\013\016"):
        assert mark not in build.read_bytes()


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


def test_every_shared_object_is_in_the_bill(bill: dict[str, Any]) -> None:
    listed = {entry["name"] for item in bill["components"] for entry in item.get("properties", [])}
    files = {path.name for path in elf_files()}
    # Two are made by the build: the program, and the empty library that stands for libpython.
    unlisted = {name for name in files if f"file:{name}" not in listed}
    assert {name for name in unlisted if not name.startswith("libpython3.")} == {"ib-sriov"}


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
        name: digest for name, digest in sums(DIST).items() if not name.startswith(("ib-sriov-image.", "kubernetes/"))
    }
    assert sums(again) == first


def test_install_knows_the_trees_name() -> None:
    """packaging/onefile.py names the folder's other files; `ib-sriov install` looks for that name."""
    from ib_sriov_cni.cli.install import TREE

    (tree,) = [path for path in BUILDS["one folder"].parent.iterdir() if path.is_dir()]
    assert tree.name.startswith(TREE)
