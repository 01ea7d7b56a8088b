"""What goes into a build: modules and data of packages, and what is left out."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import metadata

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROJECT = "ib-sriov"
# From the standard library: what none of our commands needs, and what only a "try: import" would pull in.
EXCLUDED = [
    *("tkinter", "turtle", "test", "unittest", "pydoc", "doctest", "pdb", "lib2to3", "distutils", "ensurepip", "venv"),
    *("setuptools", "pkg_resources", "pip", "wheel", "IPython", "numpy", "pytest", "sqlite3", "curses", "readline"),
    *("pyverbs.providers", "ipywidgets", "attr", "twisted", "django", "jinja2", "cffi", "colorama"),
]
# Shared objects of modules that are not used: without them the import fails, and the importing code handles that.
UNWANTED = re.compile(r"_codecs_(cn|hk|jp|kr|tw|iso2022)|_multibytecodec|_testcapi|libsqlite3|libreadline|libncurses")
# A dependency's part that cannot be imported without a package it does not depend on.
NOT_INSTALLED = ("prometheus_client.twisted",)


def own_modules() -> list[str]:
    """Return the dotted names of all modules of our two packages."""
    found = []
    for package in ("ib_sriov_cni", "ipam"):
        for folder, _, files in os.walk(os.path.join(ROOT, package)):
            for file in sorted(files):
                if file.endswith(".py"):
                    name = os.path.relpath(os.path.join(folder, file), ROOT).removesuffix(".py").replace(os.sep, ".")
                    found.append(name.removesuffix(".__init__"))
    return sorted(found)


def requirements() -> list[str]:
    """Return the names of the distributions that ours needs, directly or indirectly; not those of extras."""
    seen: set[str] = set()
    left = [PROJECT]
    while left:
        for text in metadata.requires(left.pop()) or []:
            name, _, marker = text.partition(";")
            name = re.match(r"[\w.-]+", name).group().lower().replace("_", "-")  # type: ignore[union-attr]
            # A requirement of an extra, or of another system: it is installed only by chance.
            if name in seen or "extra" in marker or ("win32" in marker.lower()) or not _is_installed(name):
                continue
            seen.add(name)
            left.append(name)
    return sorted(seen)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def packages(distribution: str) -> list[str]:
    """Return the top-level packages and modules of a distribution."""
    names = {
        path.parts[0].removesuffix(".py")
        for path in metadata.files(distribution) or []
        if path.suffix == ".py" and not path.parts[0].startswith(("..", "_distutils"))
    }
    return sorted(names)


def loaded_by(modules: list[str]) -> dict[str, str]:
    """Return all modules that are loaded after importing those in a bare interpreter: name to file.

    There is no other way to see what a module written in Cython imports.
    """
    path = [ROOT, *(item for item in sys.path if item.endswith("-packages"))]
    lines = [f"import sys\nsys.path += {path!r}", *(f"import {name}" for name in modules)]
    lines += [
        "found = {name: module.__spec__.origin or '' for name, module in sys.modules.items() if module.__spec__}",
        "import json\nprint(json.dumps(found))",
    ]
    command = [sys.executable, "-I", "-S", "-c", "\n".join(lines)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        sys.exit(f"build: what the verbs import cannot be imported here:\n{told.stderr}")
    found: dict[str, str] = json.loads(told.stdout)
    return found


def hidden_imports() -> list[str]:
    """Return modules that no import statement names: those imported by name at run time, and parts of libraries."""
    from PyInstaller.utils.hooks import collect_submodules

    names = own_modules()
    for distribution in requirements():
        if distribution == "pyroute2":
            continue  # only what is imported: it is large
        for package in packages(distribution):
            names += [name for name in collect_submodules(package) if not name.startswith(NOT_INSTALLED)]
    return sorted(set(names))


def data_files() -> list[tuple[str, str]]:
    """Return pairs (source, destination folder) of the data of our packages and their requirements."""
    from PyInstaller.utils.hooks import collect_data_files, copy_metadata

    found: list[tuple[str, str]] = []
    for distribution in requirements():
        found += copy_metadata(distribution)
    for package in ("ib_sriov_cni", "ipam"):
        found += collect_data_files(package)
    for distribution in requirements():
        for package in packages(distribution):
            if distribution != "pyroute2" and importlib.util.find_spec(package).submodule_search_locations:  # type: ignore[union-attr]
                found += [pair for pair in collect_data_files(package) if not pair[0].endswith(("py.typed", ".pyi"))]
    return sorted(found)


def is_wanted(name: str) -> bool:
    """Whether a shared object that PyInstaller found goes into the build."""
    return not UNWANTED.search(name)
