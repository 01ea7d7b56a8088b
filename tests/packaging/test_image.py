"""The container image: built from nothing but what is here, and its entry point installs into a mounted folder."""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import BUILD, BUILDS, DIST, MACHINES, PROJECT, apart

OF_MACHINES = {machine: f"ib-sriov-image-{machine}.tar" for machine in MACHINES}
ARCHIVES = (*OF_MACHINES.values(), "ib-sriov-image.oci.tar", "ib-sriov-image.digest")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
GIVEN = ("LICENSES.txt", *(f"ib-sriov-{machine}{end}" for machine in MACHINES for end in ("", ".cdx.json")))


def unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)


def make_image(dist: Path) -> None:
    """Build the images of the programs under test in a folder of their own."""
    dist.mkdir()
    for name in GIVEN:
        shutil.copy(DIST / name, dist)
    done = subprocess.run([PROJECT / "packaging/image", dist], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "dist"
    make_image(folder)
    return folder


@pytest.fixture
def image(dist: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """The image's root file system, unpacked, and what it runs."""
    parts, root = tmp_path / "parts", tmp_path / "root"
    unpack(dist / OF_MACHINES[platform.machine()], parts)
    (manifest,) = json.loads((parts / "manifest.json").read_text())
    for layer in manifest["Layers"]:
        unpack(parts / layer, root)
    config = json.loads((parts / manifest["Config"]).read_text())["config"]
    return root, [*config["Entrypoint"], *config["Cmd"]]


def test_it_installs_into_the_mounted_folder(image: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, command = image
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (root / "host/opt/cni/bin").mkdir(parents=True)
    (root / "proc").mkdir(exist_ok=True)
    at = shlex.quote(str(root))
    # As a kubelet would: the root read-only, the host's folder mounted, nothing but /proc besides.
    line = f"""
mount --bind {at} {at}; mount -t proc proc {at}/proc; mount -o remount,bind,ro {at}
mount --bind {shlex.quote(str(bin_folder))} {at}/host/opt/cni/bin
exec env -i $(type -P chroot) {at} {shlex.join(command)}
"""
    done = apart(line)
    assert done.returncode == 0, done.stderr
    assert (bin_folder / "ib-sriov").read_bytes() == BUILD.read_bytes()
    assert [path.name for path in bin_folder.iterdir()] == ["ib-sriov"]


def test_its_program_is_found_by_name(dist: Path, tmp_path: Path) -> None:
    """`kubectl exec` looks along the image's PATH."""
    for name in OF_MACHINES.values():
        unpack(dist / name, tmp_path / name)
        (manifest,) = json.loads((tmp_path / name / "manifest.json").read_text())
        config = json.loads((tmp_path / name / manifest["Config"]).read_text())["config"]
        assert config["Env"] == ["PATH=/opt/cni/bin"]


def test_it_has_the_terms_of_what_is_inside(image: tuple[Path, list[str]]) -> None:
    root, _ = image
    folder = root / "usr/share/doc/ib-sriov"
    assert (folder / "LICENSES.txt").read_text() == (DIST / "LICENSES.txt").read_text()
    assert (folder / "ib-sriov.cdx.json").read_text() == Path(f"{BUILD}.cdx.json").read_text()


def test_it_has_the_program_and_nothing_else(dist: Path, tmp_path: Path) -> None:
    for machine, name in OF_MACHINES.items():
        parts, root = tmp_path / machine, tmp_path / f"{machine}-root"
        unpack(dist / name, parts)
        (manifest,) = json.loads((parts / "manifest.json").read_text())
        for layer in manifest["Layers"]:
            unpack(parts / layer, root)
        config = json.loads((parts / manifest["Config"]).read_text())
        assert (config["os"], config["architecture"]) == ("linux", ARCHITECTURES[machine])
        assert (root / "opt/cni/bin/ib-sriov").read_bytes() == BUILDS[machine].read_bytes()
        files = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
        documents = {f"usr/share/doc/ib-sriov/{each}" for each in ("LICENSES.txt", "ib-sriov.cdx.json")}
        assert files == {"opt/cni/bin/ib-sriov", *documents}


def test_the_digest_is_that_of_the_list_of_images(dist: Path, tmp_path: Path) -> None:
    """All the way down: list, manifest, configuration, layer, and the layer's content is the other archive's."""
    layout = tmp_path / "oci"
    unpack(dist / "ib-sriov-image.oci.tar", layout)

    def blob(descriptor: dict[str, Any]) -> bytes:
        algorithm, _, digest = descriptor["digest"].partition(":")
        data: bytes = (layout / "blobs" / algorithm / digest).read_bytes()
        assert hashlib.new(algorithm, data).hexdigest() == digest
        assert len(data) == descriptor["size"]
        return data

    (listed,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert (dist / "ib-sriov-image.digest").read_text() == listed["digest"] + "\n"
    images = {entry["platform"]["architecture"]: entry for entry in json.loads(blob(listed))["manifests"]}
    assert images.keys() == set(ARCHITECTURES.values())
    for machine, architecture in ARCHITECTURES.items():
        docker = tmp_path / machine
        unpack(dist / OF_MACHINES[machine], docker)
        manifest = json.loads(blob(images[architecture]))
        config = blob(manifest["config"])
        (same,) = json.loads((docker / "manifest.json").read_text())
        assert config == (docker / same["Config"]).read_bytes()
        layers = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
        assert layers == [(docker / layer).read_bytes() for layer in same["Layers"]]
        inside = json.loads(config)["rootfs"]["diff_ids"]
        assert inside == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]


def test_a_second_image_is_the_same(dist: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    make_image(again)
    for name in ARCHIVES:
        assert (again / name).read_bytes() == (dist / name).read_bytes(), name


def test_the_sums_have_the_image(dist: Path) -> None:
    listed = {line.partition("  ")[2] for line in (dist / "SHA256SUMS").read_text().splitlines()}
    assert listed == {*GIVEN, *ARCHIVES}
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=dist, check=True)
