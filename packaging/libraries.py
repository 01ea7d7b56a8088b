"""The static libraries that Debian does not have: modules of Python, rdma-core and its providers, pyverbs.

    packaging/build --step libraries [MACHINE]

They are compiled once for each machine type and kept under ~/.cache/ib-sriov/build, in a folder whose name is derived
from all that they are made of: the fetched packages, the compiler, Cython, and this file.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
import shutil
import sys
import time
from importlib import metadata

import fetch
import machines
from machines import CACHE, FLAGS, Machine, archive, run, run_all, say

# Extension modules of Python that its static library has not in it: name, and files in its Modules folder.
PYTHON_MODULES = {
    "_asyncio": ("_asynciomodule.c",),
    "_contextvars": ("_contextvarsmodule.c",),
    "_hashlib": ("_hashopenssl.c",),
    "_json": ("_json.c",),
    "_multiprocessing": ("_multiprocessing/multiprocessing.c", "_multiprocessing/semaphore.c"),
    "_posixshmem": ("_multiprocessing/posixshmem.c",),
    "_queue": ("_queuemodule.c",),
    "_ssl": ("_ssl.c",),
    "_typing": ("_typingmodule.c",),
    "_zoneinfo": ("_zoneinfo.c",),
    "mmap": ("mmapmodule.c",),
    "resource": ("resource.c",),
    "termios": ("termios.c",),
}
# Debian compiles them with libbluetooth's header, which _ssl.c would want for nothing but the name of a type.
PYTHON_SETTINGS = """\
#include "pyconfig.h"
#undef HAVE_BLUETOOTH_BLUETOOTH_H
#undef HAVE_BLUETOOTH_H
"""
# The modules of pyverbs that importing pyverbs.device draws in.
PYVERBS = (
    *("addr", "base", "cmid", "cq", "device", "dmabuf", "enums", "flow", "mr", "pd", "qp", "srq", "wq", "wr", "xrcd"),
)
PYVERBS_SOURCES = ("pyverbs_error.py", "utils.py")
PROVIDERS = (
    *("bnxt_re", "cxgb4", "efa", "erdma", "hfi1verbs", "hns", "ipathverbs", "irdma", "mana", "mlx4", "mlx5", "mthca"),
    *("ocrdma", "qedr", "rxe", "siw", "vmw_pvrdma"),
)
KEPT_SECONDS = 30 * 86400  # of a folder that no build has used


class Libraries:
    """A machine type's libraries: where they are, and how they are made."""

    def __init__(self, machine: Machine, folder: str = "") -> None:
        self.machine = machine
        self.folder = folder or os.path.join(CACHE, f"{machine.name}-{_key(machine)}")
        self.root = os.path.join(self.folder, "root")  # Debian's packages, unpacked
        self.own = os.path.join(self.folder, "own")  # what is compiled here
        self.python_headers = os.path.join(self.root, "usr/include/python3.11")

    def compiler(self) -> list[str]:
        return [self.machine.compiler, f"--sysroot={self.root}"]

    def stdlib(self) -> str:
        """Return the folder of the interpreter's modules that are written in Python."""
        return os.path.join(self.root, "usr/lib/python3.11")

    def names(self) -> list[str]:
        """Return the paths of the libraries."""
        debian = os.path.join(self.root, "usr/lib", self.machine.triplet)
        python = os.path.join(self.stdlib(), f"config-3.11-{self.machine.triplet}", "libpython3.11.a")
        return [
            *sorted(glob.glob(f"{self.own}/*.a")),
            python,
            *(os.path.join(debian, f"lib{name}.a") for name in ("nl-route-3", "ssl", "crypto", "z", "expat")),
            os.path.join(self.root, "lib", self.machine.triplet, "libnl-3.a"),
        ]

    def make(self) -> Libraries:
        """Compile them, unless they are there."""
        if not os.path.isdir(self.folder):
            with fetch.locked():
                if not os.path.isdir(self.folder):
                    unfinished = machines.fresh_folder(os.path.join(CACHE, f"{self.machine.name}.new"))
                    Libraries(self.machine, unfinished).compile()
                    os.replace(unfinished, self.folder)
                    remove_unused()
        os.utime(self.folder)
        return self

    def compile(self) -> None:
        """Unpack Debian's packages, and compile what they do not have, into the empty folder."""
        say(f"compiling the libraries for {self.machine.name}")
        start = time.monotonic()
        work = os.path.join(self.folder, "work")
        os.makedirs(work)
        os.makedirs(self.own)
        fetch.unpack_packages(self.machine, self.root)
        python, rdma = fetch.unpack_source("python3.11", work), fetch.unpack_source("rdma-core", work)
        self._python_modules(work, python)
        built = self._rdma_core(work, rdma)
        self._pyverbs(work, rdma, built)
        # What writes code objects as C (static_code.py), and where that looks for the interpreter's own strings.
        for name in ("Tools/scripts", "Include", "Modules", "Objects", "Parser", "Python"):
            shutil.copytree(os.path.join(python, name), os.path.join(self.own, "python", name))
        for name in PYVERBS_SOURCES:
            shutil.copy(os.path.join(rdma, "pyverbs", name), self.own)
        _keep_licences(python, rdma, self.own)
        shutil.rmtree(work)
        say(f"the libraries for {self.machine.name} took {time.monotonic() - start:.0f} s")

    def _flags(self, work: str) -> list[str]:
        return [*FLAGS, f"-ffile-prefix-map={work}=.", f"-ffile-prefix-map={self.root}=", "-DNDEBUG"]

    def _compile(self, work: str, name: str, files: dict[str, str], options: list[str]) -> list[str]:
        """Compile files (object's name: source); return the objects."""
        folder = machines.fresh_folder(os.path.join(work, "objects", name))
        objects = {os.path.join(folder, f"{short}.o"): source for short, source in files.items()}
        command = [*self.compiler(), *self._flags(work), *options]
        run_all([[*command, "-c", source, "-o", target] for target, source in objects.items()])
        return list(objects)

    def _python_modules(self, work: str, python: str) -> None:
        folder = os.path.join(python, "Modules")
        settings = os.path.join(work, "settings.h")
        with open(settings, "w", encoding="ascii") as file:
            file.write(PYTHON_SETTINGS)
        files = {
            os.path.basename(source).removesuffix(".c"): os.path.join(folder, source)
            for sources in PYTHON_MODULES.values()
            for source in sources
        }
        headers = (self.python_headers, f"{self.python_headers}/internal", folder, f"{folder}/_multiprocessing")
        options = ["-DPy_BUILD_CORE_BUILTIN", "-include", settings, *(f"-I{path}" for path in headers)]
        archive(self.machine, self._own("pymodules"), self._compile(work, "pymodules", files, options))

    def _rdma_core(self, work: str, source: str) -> str:
        """Compile libibverbs, librdmacm and the providers by rdma-core's own CMake files; return the build's folder."""
        folder = machines.fresh_folder(os.path.join(work, "rdma-build"))
        toolchain = os.path.join(work, "toolchain.cmake")
        settings = {
            "CMAKE_SYSTEM_NAME": "Linux",
            "CMAKE_SYSTEM_PROCESSOR": self.machine.name,
            "CMAKE_SYSROOT": self.root,
            "CMAKE_C_COMPILER": shutil.which(self.machine.compiler) or self.machine.compiler,
            "CMAKE_AR": shutil.which(self.machine.tool("ar")) or "ar",
            "CMAKE_RANLIB": shutil.which(self.machine.tool("ranlib")) or "ranlib",
            "CMAKE_EXE_LINKER_FLAGS": "-static",
            "CMAKE_FIND_ROOT_PATH_MODE_PROGRAM": "NEVER",
            "CMAKE_FIND_ROOT_PATH_MODE_LIBRARY": "ONLY",
            "CMAKE_FIND_ROOT_PATH_MODE_INCLUDE": "ONLY",
            "CMAKE_FIND_ROOT_PATH_MODE_PACKAGE": "ONLY",
            # On the way to each static library a shared one is made, which nobody uses: an empty file will do.
            "CMAKE_C_CREATE_SHARED_LIBRARY": "<CMAKE_COMMAND> -E touch <TARGET>",
            "CMAKE_C_CREATE_SHARED_MODULE": "<CMAKE_COMMAND> -E touch <TARGET>",
        }
        with open(toolchain, "w", encoding="utf-8") as file:
            file.writelines(f'set({name} "{setting}")\n' for name, setting in settings.items())
        options = {
            "CMAKE_TOOLCHAIN_FILE": toolchain,
            "CMAKE_BUILD_TYPE": "None",
            "CMAKE_C_FLAGS": " ".join(self._flags(work)),
            "CMAKE_INSTALL_PREFIX": "/usr",
            "CMAKE_INSTALL_SYSCONFDIR": "/etc",
            "CMAKE_INSTALL_RUNDIR": "/run",
            "PYTHON_EXECUTABLE": sys.executable,
            "ENABLE_STATIC": "1",
            "NO_PYVERBS": "1",
            "NO_MAN_PAGES": "1",
        }
        # libnl's descriptions, and nothing of the build machine's.
        places = (f"usr/lib/{self.machine.triplet}/pkgconfig", "usr/share/pkgconfig")
        environ = {
            **os.environ,
            "PKG_CONFIG_SYSROOT_DIR": self.root,
            "PKG_CONFIG_LIBDIR": ":".join(os.path.join(self.root, place) for place in places),
        }
        given = [f"-D{name}={setting}" for name, setting in options.items()]
        run(["cmake", "-G", "Ninja", *given, source], cwd=folder, env=environ)
        wanted = [f"lib/statics/lib{name}.a" for name in ("ibverbs", "rdmacm")]
        listed = run(["ninja", "-t", "targets", "all"], cwd=folder).splitlines()
        targets = {line.partition(":")[0] for line in listed}
        for provider in PROVIDERS:
            names = (f"lib/statics/lib{provider}.a", f"lib/statics/lib{provider}-rdmav*.a")
            found = [target for target in targets for name in names if fnmatch.fnmatch(target, name)]
            if not found:
                sys.exit(f"build: rdma-core's CMake files make no static library of the provider {provider}")
            wanted += found
        wanted += ["util/librdma_util.a", "ccan/libccan.a"]
        run(["ninja", *wanted], cwd=folder)
        for target in wanted:
            shutil.copy(os.path.join(folder, target), self.own)
        return folder

    def _pyverbs(self, work: str, source: str, built: str) -> None:
        translated = machines.fresh_folder(os.path.join(work, "cython"))
        files = {name: os.path.join(translated, f"{name}.c") for name in PYVERBS}
        command = [sys.executable, "-m", "cython", "-3", "-I."]
        run_all([[*command, f"pyverbs/{name}.pyx", "-o", file] for name, file in files.items()], cwd=source)
        files["dmabuf_alloc_stub"] = os.path.join(source, "pyverbs/dmabuf_alloc_stub.c")
        headers = (self.python_headers, os.path.join(built, "include"), os.path.join(source, "pyverbs"), source)
        options = ["-Os", "-fno-strict-aliasing", "-DPY_SSIZE_T_CLEAN", *(f"-I{path}" for path in headers)]
        archive(self.machine, self._own("pyverbs"), self._compile(work, "pyverbs", files, options))

    def _own(self, name: str) -> str:
        return os.path.join(self.own, f"lib{name}.a")


def _key(machine: Machine) -> str:
    """Return what the libraries of a machine type depend on, as sixteen hexadecimal digits."""
    whole = hashlib.sha256()
    for file in fetch.fetched():
        if file.architecture in (machine.debian, "source"):
            whole.update(f"{file.name} {file.sha256}\n".encode())
    whole.update(run([machine.compiler, "--version"]).encode())
    whole.update(metadata.version("cython").encode())
    for module in (__file__, machines.__file__):
        with open(module, "rb") as source:
            whole.update(source.read())
    return whole.hexdigest()[:16]


def _keep_licences(python: str, rdma: str, own: str) -> None:
    """Keep the licence texts of what was compiled."""
    shutil.copy(os.path.join(python, "LICENSE"), os.path.join(own, "python3.11.licence"))
    paths = [*sorted(glob.glob(f"{rdma}/COPYING*")), *sorted(glob.glob(f"{rdma}/ccan/LICENSE*"))]
    paths += sorted(glob.glob(f"{rdma}/providers/*/COPYING*"))
    with open(os.path.join(own, "rdma-core.licence"), "w", encoding="utf-8") as out:
        for path in paths:
            with open(path, encoding="utf-8", errors="replace") as file:
                out.write(f"{os.path.relpath(path, rdma)}\n{'-' * 78}\n{file.read()}\n\n")


def remove_unused() -> None:
    """Remove libraries that no build has used for a month."""
    for entry in os.scandir(CACHE):
        if entry.name.partition("-")[0] in machines.MACHINES and time.time() - entry.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(entry.path)
