"""The container image: built from nothing but what is here, and its entry point installs into a mounted folder."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import BUILDS, DIST, PROJECT, apart


def unpack(archive: Path, folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, list[str]]:
    """The image's root file system, unpacked, and what it runs."""
    dist = tmp_path / "dist"
    dist.mkdir()
    for name in ("ib-sriov", "LICENSES.txt", "ib-sriov.cdx.json"):
        shutil.copy(DIST / name, dist)
    done = subprocess.run([PROJECT / "packaging/image", dist], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts, root = tmp_path / "parts", tmp_path / "root"
    unpack(dist / "ib-sriov-image.tar", parts)
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
    assert (bin_folder / "ib-sriov").read_bytes() == BUILDS["one file"].read_bytes()
    assert [path.name for path in bin_folder.iterdir()] == ["ib-sriov"]


def test_it_has_the_terms_of_what_is_inside(image: tuple[Path, list[str]]) -> None:
    root, _ = image
    folder = root / "usr/share/doc/ib-sriov"
    assert (folder / "LICENSES.txt").read_text() == (DIST / "LICENSES.txt").read_text()
    assert "GNU C Library" in (folder / "C-library.txt").read_text(errors="replace")
