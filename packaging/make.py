"""Make everything that is released: make.py FOLDER. Called by packaging/build, which sets the environment."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile

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
    pyinstaller(work)
    one = onefile.Packed(work)
    one.gather()
    found = sbom.parts(one.files())
    licences = sbom.licences(found)
    inside = sbom.document(ib_sriov_cni.__version__, found, {})
    one.archive["LICENSES.txt"] = licences.encode()
    one.archive["sbom.cdx.json"] = inside.encode()
    one.write(os.path.join(target, "ib-sriov"))
    one.write_folder(os.path.join(target, "ib-sriov-folder"))
    programs = {name: sbom.digest(os.path.join(target, name)) for name in ("ib-sriov", "ib-sriov-folder/ib-sriov")}
    write(os.path.join(target, "LICENSES.txt"), licences)
    write(os.path.join(target, "ib-sriov.cdx.json"), sbom.document(ib_sriov_cni.__version__, found, programs))
    python_distributions(work, target)
    onefile.run([os.path.join(HERE, "digests"), target])
    return 0


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def python_distributions(work: str, target: str) -> None:
    """Make wheel and sdist from a copy: setuptools leaves its own files where it builds."""
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
    """Rewrite a .tar.gz with sorted members, the same time for all, and no owner."""
    when = int(os.environ["SOURCE_DATE_EPOCH"])
    packed = io.BytesIO()
    with tarfile.open(source) as given, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as out:
        for member in sorted(given.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = when, 0, 0, "", ""
            member.pax_headers = {}
            out.addfile(member, given.extractfile(member) if member.isfile() else None)
    with open(target, "wb") as file, gzip.GzipFile("", "wb", mtime=when, fileobj=file) as zipped:
        zipped.write(packed.getvalue())


def pyinstaller(work: str) -> None:
    """Have PyInstaller find what belongs to the program; the spec writes it into the folder."""
    # Nothing from an earlier run: everything is searched again.
    environ = {**os.environ, "IB_SRIOV_BUILD": work, "PYINSTALLER_CONFIG_DIR": os.path.join(work, "cache")}
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "--distpath", work]
    command += ["--workpath", os.path.join(work, "work"), os.path.join(HERE, "ib_sriov.spec")]
    status = subprocess.run(command, env=environ, check=False).returncode
    if status:
        sys.exit(f"build: PyInstaller ended with {status}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
