"""Make everything that is released, or take one step. Called by packaging/build, which sets the environment.

FOLDER                          all steps, into FOLDER
--step fetch                    what is linked, from Debian's archive (fetch.py)
--step updates                  fetch all again, and say what is newer
--step libraries [MACHINE]      what Debian has no static library of (libraries.py)
--step contents                 which modules belong to the program, into build/contents (PyInstaller)
--step program [MACHINE]        the program, into build/ (program.py)
--step interpreter [MACHINE]    the same, but it runs a script, or the module in the file MAIN: for tests
"""

from __future__ import annotations

import gzip
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile

import fetch
import machines
import program
import sbom
from libraries import Libraries
from machines import MACHINES, ROOT
from modules import Modules

import ib_sriov_cni

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(ROOT, "build")
NAME = "ib-sriov"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--step"]:
        return step(arguments[1], arguments[2:] or list(MACHINES))
    target = os.path.abspath(arguments[0])
    work = os.path.join(BUILD, os.path.basename(target))
    machines.fresh_folder(work)
    libraries = [Libraries(machine).make() for machine in MACHINES.values()]
    modules = Modules(pyinstaller(work), libraries[0])
    machines.fresh_folder(target)
    parts = {}
    for each in libraries:
        name = f"{NAME}-{each.machine.name}"
        image, linked = program.link(modules, each, os.path.join(work, each.machine.name))
        parts[name] = sbom.parts(modules, each, linked)
        path = os.path.join(target, name)
        inside = {
            "LICENSES.txt": sbom.licences(parts[name]).encode(),
            "sbom.cdx.json": sbom.document(ib_sriov_cni.__version__, parts[name], {}).encode(),
        }
        write_program(path, image + modules.zipped(inside))
        bill = sbom.document(ib_sriov_cni.__version__, parts[name], {name: machines.digest(path)})
        write(os.path.join(target, f"{name}.cdx.json"), bill)
    # The program for the machine that builds, by its plain name.
    os.link(os.path.join(target, f"{NAME}-{platform.machine()}"), os.path.join(target, NAME))
    write(os.path.join(target, "LICENSES.txt"), sbom.licences([part for found in parts.values() for part in found]))
    python_distributions(work, target)
    machines.run([os.path.join(HERE, "digests"), target])
    return 0


def step(name: str, names: list[str]) -> int:
    """Run one step of a build for these machine types."""
    wanted = [MACHINES[each] for each in names]
    if name == "fetch":
        print(fetch.RECORD, len(fetch.fetched()), "files")
    elif name == "updates":
        print(fetch.updates(), "packages have another version than before")
    elif name == "libraries":
        for machine in wanted:
            print(Libraries(machine).make().folder)
    elif name == "contents":
        print(pyinstaller(machines.fresh_folder(os.path.join(BUILD, "contents"))))
    elif name in ("program", "interpreter"):
        found = os.path.join(BUILD, "contents", "contents.json")
        if not os.path.exists(found):
            sys.exit("build: run the step contents first")
        other = os.environ.get("MAIN") or os.path.join(program.PROGRAM, "run_script.py")
        main_file = os.path.abspath(other) if name == "interpreter" else ""
        for machine in wanted:
            libraries = Libraries(machine).make()
            modules = Modules(found, libraries, main_file)
            path = os.path.join(BUILD, f"{NAME if name == 'program' else name}-{machine.name}")
            image, _linked = program.link(modules, libraries, os.path.join(BUILD, "step", machine.name))
            write_program(path, image + modules.zipped({}))
            print(path)
    else:
        sys.exit(f"build: no step {name}: fetch, updates, libraries, contents, program, interpreter")
    return 0


def write_program(path: str, content: bytes) -> None:
    with open(path + ".new", "wb") as out:
        out.write(content)
    os.chmod(path + ".new", 0o755)  # noqa: S103  # it is to be executed
    os.replace(path + ".new", path)


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
    machines.run([sys.executable, "-c", code, made], cwd=copy)
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


def pyinstaller(work: str) -> str:
    """Have PyInstaller find what belongs to the program; return the file in the folder that the spec writes."""
    # Nothing from an earlier run: everything is searched again.
    environ = {**os.environ, "IB_SRIOV_BUILD": work, "PYINSTALLER_CONFIG_DIR": os.path.join(work, "cache")}
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "--distpath", work]
    command += ["--workpath", os.path.join(work, "work"), os.path.join(HERE, "ib_sriov.spec")]
    status = subprocess.run(command, env=environ, check=False).returncode
    if status:
        sys.exit(f"build: PyInstaller ended with {status}")
    return os.path.join(work, "contents.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
