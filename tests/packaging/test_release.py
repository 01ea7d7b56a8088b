"""What a release adds to a build: manifests that name the image by its digest, and a signature over all files."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.conftest import PROJECT

DIGEST = "sha256:" + "0123456789abcdef" * 4
OVERLAYS = sorted(path.name for path in (PROJECT / "packaging/kubernetes/overlays").iterdir())
Done = subprocess.CompletedProcess[str]


def run(*command: Path | str) -> Done:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A folder like dist, with files in the place of the large ones."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in ("ib-sriov-x86_64", "ib-sriov-aarch64", "ib-sriov-image.oci.tar"):
        (folder / name).write_text(f"content of {name}\n")
    (folder / "ib-sriov").hardlink_to(folder / "ib-sriov-x86_64")
    (folder / "ib-sriov-image.digest").write_text(f"{DIGEST}\n")
    assert run(PROJECT / "packaging/digests", folder).returncode == 0
    return folder


def images(text: str) -> set[str]:
    """Images of all containers in a manifest."""
    found = set()
    things: list[dict[str, Any]] = list(yaml.safe_load_all(text))
    for thing in things:
        pod = thing.get("spec", {}).get("template", {}).get("spec", {})
        found |= {item["image"] for item in [*pod.get("initContainers", []), *pod.get("containers", [])]}
    return found


@pytest.mark.parametrize("image", ["registry.example/ib-sriov", "registry.example:5000/team/cni"])
def test_manifests_name_the_image_by_its_digest(dist: Path, image: str) -> None:
    done = run(PROJECT / "packaging/manifests", image, dist)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (dist / "kubernetes").iterdir()) == [f"{name}.yaml" for name in OVERLAYS]
    for path in (dist / "kubernetes").iterdir():
        assert images(path.read_text()) == {f"{image}@{DIGEST}"}
    assert "kubernetes/plain.yaml" in (dist / "SHA256SUMS").read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=dist, check=True)


@pytest.mark.parametrize("image", ["", "registry.example/ib-sriov:1.0", "ib-sriov:latest", f"ib-sriov@{DIGEST}", "a b"])
def test_a_name_with_a_tag_is_refused(dist: Path, image: str) -> None:
    done = run(PROJECT / "packaging/manifests", image, dist)
    assert done.returncode == 1
    assert done.stderr.startswith("manifests: "), done.stderr
    assert not (dist / "kubernetes").exists()


@pytest.mark.parametrize("content", [None, "", "sha256:1234\n", "latest\n"])
def test_no_manifests_without_a_digest(dist: Path, content: str | None) -> None:
    (dist / "ib-sriov-image.digest").unlink()
    if content is not None:
        (dist / "ib-sriov-image.digest").write_text(content)
    done = run(PROJECT / "packaging/manifests", "registry.example/ib-sriov", dist)
    assert done.returncode == 1
    assert "make image" in done.stderr
    assert not (dist / "kubernetes").exists()


def make_key(folder: Path, *options: str) -> tuple[Path, Path]:
    """A private key that lives as long as the test, and its public half."""
    key, public = folder / "key.pem", folder / "public.pem"
    subprocess.run(["openssl", "genpkey", *options, "-out", key], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    return key, public


P256 = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_key(tmp_path, *P256)


def verify(public: Path, dist: Path) -> Done:
    """As docs/hardening.md says."""
    line = (
        'openssl dgst -sha256 -verify "$1" -signature <(openssl base64 -d -A -in SHA256SUMS.sig) SHA256SUMS '
        "&& sha256sum --check --strict --quiet SHA256SUMS"
    )
    return subprocess.run(
        ["/bin/bash", "-c", line, "verify", public], cwd=dist, capture_output=True, text=True, check=False
    )


def test_the_signature_is_verified_by_openssl(dist: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    key, public = keys
    done = run(PROJECT / "packaging/sign", key, dist)
    assert done.returncode == 0, done.stderr
    assert verify(public, dist).returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    assert verify(make_key(other, *P256)[1], dist).returncode != 0
    # cosign takes base64 of the signature in DER: a sequence of two integers.
    assert base64.b64decode((dist / "SHA256SUMS.sig").read_text(), validate=True)[0] == 0x30
    names = {path.name for path in dist.rglob("*")} - {"SHA256SUMS.sig"}
    programs = {"ib-sriov", "ib-sriov-x86_64", "ib-sriov-aarch64"}
    assert names == {"SHA256SUMS", *programs, "ib-sriov-image.oci.tar", "ib-sriov-image.digest"}


@pytest.mark.parametrize("name", ["SHA256SUMS", "SHA256SUMS.sig", "ib-sriov", "ib-sriov-image.digest"])
def test_a_changed_byte_is_refused(dist: Path, keys: tuple[Path, Path], name: str) -> None:
    key, public = keys
    assert run(PROJECT / "packaging/sign", key, dist).returncode == 0
    data = bytearray((dist / name).read_bytes())
    data[len(data) // 2] ^= 1
    (dist / name).write_bytes(data)
    assert verify(public, dist).returncode != 0


def test_only_what_was_built_is_signed(dist: Path, keys: tuple[Path, Path]) -> None:
    key, _ = keys
    (dist / "more").write_text("")
    done = run(PROJECT / "packaging/sign", key, dist)
    assert (done.returncode, done.stderr) == (1, "sign: not in SHA256SUMS: more\n")
    (dist / "more").unlink()
    (dist / "ib-sriov").write_text("other content\n")
    done = run(PROJECT / "packaging/sign", key, dist)
    assert done.returncode == 1
    assert "not the files that were built" in done.stderr
    assert not (dist / "SHA256SUMS.sig").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
        ("-algorithm", "ED25519"),
    ],
)
def test_other_keys_are_refused(dist: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    key, public = make_key(tmp_path, *options)
    for given in (key, public, tmp_path / "missing"):
        done = run(PROJECT / "packaging/sign", given, dist)
        assert done.returncode == 1
        assert not (dist / "SHA256SUMS.sig").exists()
    assert "P-256" in run(PROJECT / "packaging/sign", key, dist).stderr


def test_a_key_in_the_checkout_is_refused(dist: Path) -> None:
    inside = PROJECT / "setup.cfg"  # it is not even read
    done = run(PROJECT / "packaging/sign", inside, dist)
    assert done.returncode == 1
    assert "is in the checkout" in done.stderr


def test_a_signature_does_not_outlive_what_it_signs(dist: Path, keys: tuple[Path, Path]) -> None:
    assert run(PROJECT / "packaging/sign", keys[0], dist).returncode == 0
    assert run(PROJECT / "packaging/digests", dist).returncode == 0
    assert not (dist / "SHA256SUMS.sig").exists()
