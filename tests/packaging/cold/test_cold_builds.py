"""Two builds from nothing, in checkouts and caches of different names, give the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import PROJECT


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """What a build reads of the checkout, as it is now."""
    copy = tmp_path / "sources"
    for name in ("ib_sriov_cni", "ipam", "packaging", "tests/tools"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "tests/__init__.py", copy / "tests")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(PROJECT / name, copy)
    return copy


def build(sources: Path, folder: Path) -> str:
    """Build in a folder, with a cache of its own; return SHA256SUMS."""
    copy = folder / "checkout"
    shutil.copytree(sources, copy)
    (copy / ".venv").symlink_to((PROJECT / ".venv").resolve())
    environ = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([copy / "packaging/build"], env=environ, check=True, stdout=subprocess.DEVNULL)
    return (copy / "dist/SHA256SUMS").read_text()


def test_two_builds_are_the_same(sources: Path, tmp_path: Path) -> None:
    sums = []
    for name in ("one", "the-other-one"):
        (tmp_path / name).mkdir()
        sums.append(build(sources, tmp_path / name))
    assert sums[0] == sums[1]
    names = {line.split("  ")[1] for line in sums[0].splitlines()}
    assert {"ib-sriov-x86_64", "ib-sriov-aarch64"} <= names
