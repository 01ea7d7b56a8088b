"""The scripts that fetch the lab's real clients, and the small protobuf codec for the CRI."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.lab.client_programs import cri, image, kube

ROOT = Path(__file__).resolve().parents[2]
SIMULATION = """\
Inst login [1:4.13-1] (1:4.13-2 Debian:12 [amd64])
Inst conmon (2.1.6 Debian:12 [amd64])
Inst podman (4.3.1 Debian:12 [amd64])
Conf conmon (2.1.6 Debian:12 [amd64])
"""


class Machine:
    """A PATH with fake apt and dpkg, and the few real programs that deb-client calls."""

    REAL = ("bash", "dirname", "mkdir", "mktemp", "mv", "rm", "awk", "find", "sort", "id")

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.cache = root / "cache"
        self.bin.mkdir(parents=True)
        for name in self.REAL:
            (self.bin / name).symlink_to(shutil.which(name) or name)

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o700)

    def apt(self, *, download: str) -> None:
        self.program("apt-get", f'case "$*" in *" install "*) echo "{SIMULATION}" ;; *) {download} ;; esac')

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": str(self.bin), "HOME": str(self.cache), "XDG_CACHE_HOME": str(self.cache)}
        argv = [str(ROOT / "tests/tools/deb-client"), *words]
        return subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.program("dpkg-deb", '/bin/mkdir -p "$3/usr/bin"; echo >"$3/usr/bin/$(/usr/bin/basename "$2" .deb)"')
    return made


def test_packages_are_unpacked_once_and_what_is_only_older_is_left_out(machine: Machine) -> None:
    machine.apt(download='for name in "${@:7}"; do echo >"$name.deb"; done')
    done = machine("podman")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert sorted(os.listdir(folder / "tree/usr/bin")) == ["conmon", "podman"]
    assert (folder / "packages").read_text().split() == ["conmon.deb", "podman.deb"]
    assert sorted(os.listdir(folder)) == ["packages", "tree"]
    machine.program("apt-get", "exit 1")
    assert machine("--built", "podman").stdout == done.stdout


def test_a_download_that_fails_leaves_nothing(machine: Machine) -> None:
    machine.apt(download="exit 100")
    done = machine("podman")
    assert done.returncode == 1
    assert "could not fetch conmon podman" in done.stderr
    assert os.listdir(machine.cache / "ib-sriov/deb") == []


@pytest.mark.parametrize(
    ("tool", "name"),
    [("deb-client", "podman"), ("go-client", "cnitool"), ("go-client", "kubelet v1."), ("go-client", "etcd v3.")],
)
def test_what_is_not_built_is_not_fetched_when_told_so(machine: Machine, tool: str, name: str) -> None:
    machine.apt(download="exit 0")
    argv = [str(ROOT / "tests/tools" / tool), "--built", name.split(maxsplit=1)[0]]
    environ = {**os.environ, "XDG_CACHE_HOME": str(machine.cache)}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert name in done.stderr


@pytest.mark.parametrize("name", ["frobnicate", ""])
def test_an_unknown_client_is_named(machine: Machine, name: str) -> None:
    done = machine(*([name] if name else []))
    assert done.returncode == 1
    assert "podman" in done.stderr


@pytest.mark.parametrize(
    ("message", "raw"),
    [
        # the examples in the Protocol Buffers encoding guide
        ({1: 150}, b"\x08\x96\x01"),
        ({2: "testing"}, b"\x12\x07testing"),
        ({3: {1: 150}}, b"\x1a\x03\x08\x96\x01"),
        ({4: ["a", "b"]}, b"\x22\x01a\x22\x01b"),
        ({}, b""),
        ({16: 1}, b"\x80\x01\x01"),
    ],
)
def test_messages_have_the_wire_format(message: dict[int, Any], raw: bytes) -> None:
    assert cri.encode(message) == raw


def test_messages_are_read_one_level_deep() -> None:
    raw = cri.encode({1: [1, 300], 2: {1: "pod"}})
    found = cri.decode(raw)
    assert found[1] == [1, 300]
    assert cri.text(cri.decode(found[2][0]), 1) == "pod"
    with pytest.raises(ValueError, match="wire type 5"):
        cri.decode(b"\x0d\0\0\0\0")


def test_annotations_are_read_from_both_forms() -> None:
    pod = {1: {1: "worker-a", 12: [{1: "a", 2: "1"}, {1: "b", 2: "2"}]}}
    body = kube.MAGIC + cri.encode({1: {1: "v1", 2: "Pod"}, 2: cri.encode(pod)})
    assert kube.annotations_of(body) == {"a": "1", "b": "2"}
    assert kube.annotations_of(b'{"metadata": {"annotations": {"a": "1"}}}') == {"a": "1"}


def test_an_image_names_its_layer_by_hash(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"a program")
    with tarfile.open(image.make_image(tmp_path / "image.tar", busybox)) as tar:
        parts = {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name))}
    config = json.loads(parts["config.json"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(parts['layer.tar']).hexdigest()}"]
    assert json.loads(parts["manifest.json"])[0]["RepoTags"] == [image.NAME]
