"""Make everything that is released: make.py FOLDER. Called by packaging/build, which sets the environment."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile

import contents
import onefile
import sbom

import ib_sriov_cni

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def main(target: str) -> int:
    target = os.path.abspath(target)
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    work = os.path.join(ROOT, "build", os.path.basename(target))
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    pyinstaller(work, target)
    one = onefile.OneFile(work)
    one.gather()
    of_the_folder = {path for _, path, kind in one.found["binaries"] if kind != "SYMLINK"}
    found = sbom.components(sorted({*one.files(), *of_the_folder}))
    licences = sbom.licences(found)
    inside = sbom.document(ib_sriov_cni.__version__, found, {})
    one.archive["LICENSES.txt"] = licences.encode()
    one.archive["sbom.cdx.json"] = text_of(inside).encode()
    one.write(os.path.join(target, "ib-sriov"))
    programs = {name: sbom.digest(os.path.join(target, name)) for name in ("ib-sriov", "ib-sriov-folder/ib-sriov")}
    write(os.path.join(target, "LICENSES.txt"), licences)
    write(os.path.join(target, "ib-sriov.cdx.json"), text_of(sbom.document(ib_sriov_cni.__version__, found, programs)))
    for name in ("LICENSES.txt", "sbom.cdx.json"):
        write(os.path.join(target, "ib-sriov-folder", tree(), name), one.archive[name].decode())
    python_distributions(work, target)
    digests(target)
    return 0


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def text_of(document: object) -> str:
    return json.dumps(document, indent=1) + "\n"


def tree() -> str:
    """Name of the folder that the one-folder build's other files are in; ib_sriov_cni/cli/install.py knows it too."""
    return ".ib-sriov-tree-" + fingerprint()


def python_distributions(work: str, target: str) -> None:
    """Make wheel and sdist, of a copy: setuptools leaves its own files where it builds."""
    copy = os.path.join(work, "copy")
    for name in ("ib_sriov_cni", "ipam"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(ROOT, name), os.path.join(copy, name), ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(os.path.join(ROOT, name), copy)
    made = os.path.join(work, "distributions")
    os.makedirs(made)
    code = "import sys; to = sys.argv[1]; from setuptools import build_meta as b; b.build_wheel(to); b.build_sdist(to)"
    onefile.run([sys.executable, "-c", code, made], cwd=copy)
    for name in sorted(os.listdir(made)):
        if name.endswith(".tar.gz"):
            steady_tar(os.path.join(made, name), os.path.join(target, name))
        else:
            shutil.copy(os.path.join(made, name), target)


def steady_tar(source: str, target: str) -> None:
    """Write a .tar.gz again with sorted members, one time, and no owner."""
    when = int(os.environ["SOURCE_DATE_EPOCH"])
    packed = io.BytesIO()
    with tarfile.open(source) as given, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as out:
        for member in sorted(given.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.pax_headers = {}
            out.addfile(member, given.extractfile(member) if member.isfile() else None)
    with open(target, "wb") as file, gzip.GzipFile("", "wb", mtime=when, fileobj=file) as zipped:
        zipped.write(packed.getvalue())


def digests(target: str) -> None:
    """Write SHA256SUMS of everything here."""
    lines = []
    for base, folders, files in os.walk(target):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(base, name)
            if name != "SHA256SUMS":
                lines.append(f"{sbom.digest(path)}  {os.path.relpath(path, target)}\n")
    write(os.path.join(target, "SHA256SUMS"), "".join(lines))


def pyinstaller(work: str, target: str) -> None:
    """Find what belongs to the program, and make the one-folder tree."""
    environ = {
        **os.environ,
        "IB_SRIOV_BUILD": work,
        "IB_SRIOV_CONTENTS": tree(),
        # Nothing of an earlier run: what is found is found anew.
        "PYINSTALLER_CONFIG_DIR": os.path.join(work, "cache"),
    }
    made = os.path.join(work, "made")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "--distpath", made]
    command += ["--workpath", os.path.join(work, "work"), os.path.join(HERE, "ib_sriov.spec")]
    status = subprocess.run(command, env=environ, check=False).returncode
    if status:
        sys.exit(f"build: PyInstaller ended with {status}")
    shutil.move(os.path.join(made, "ib-sriov-folder"), os.path.join(target, "ib-sriov-folder"))


@functools.cache
def fingerprint() -> str:
    """Short name of what goes in: our own sources and the versions of everything else."""
    digest = hashlib.sha256(sys.version.encode())
    for folder in ("ib_sriov_cni", "ipam", "packaging"):
        for base, folders, files in os.walk(os.path.join(ROOT, folder)):
            folders.sort()
            for name in sorted(files):
                if not name.endswith(".pyc"):
                    with open(os.path.join(base, name), "rb") as file:
                        digest.update(name.encode() + file.read())
    for name in contents.requirements():
        digest.update(f"{name} {contents.metadata.version(name)}".encode())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
