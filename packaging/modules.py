"""The modules of the program: those of the CNI commands as code objects, all others as a zip archive.

What PyInstaller found (contents.json) decides what goes in. Modules of the standard library are taken from the
fetched package, not from the machine that builds: they get their security updates with the interpreter. None of it
depends on the type of machine.
"""

from __future__ import annotations

import __future__  # isort: skip
import ast
import importlib.util
import io
import json
import marshal
import os
import re
import sys
import tokenize
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from types import CodeType

import contents
import fetch
from libraries import PYTHON_MODULES, PYVERBS_SOURCES, Libraries
from machines import ROOT

PROGRAM = os.path.join(ROOT, "packaging", "program")
# What CNI commands may import besides our own modules: what fastjson falls back to, and what pyverbs imports that
# ib_sriov_cni/kernel/pyverbs_loader.py has no stand-in for.
ALSO_HOT = ("json", "traceback", "struct", "encodings.utf_8", "encodings.ascii", "encodings.latin_1")
# Modules that the interpreter has frozen itself: with docstrings, and scattered among others that calls do not use.
ALSO_FROZEN = ("_collections_abc", "abc", "genericpath", "os", "posixpath", "stat")
# Packages inside ib_sriov_cni that no CNI command imports: they are for people and for the agent.
COLD_PACKAGES = {"agent", "cli", "doctor", "node"}
# Extension modules that PyInstaller finds, and that nothing of ours uses: whoever imports one does without.
LEFT_OUT = {"_bz2", "_crypt", "_ctypes", "_decimal", "_lzma", "_uuid", "_codecs", "yaml._yaml"}
# What pip writes of an installation; nothing reads it, and it differs from machine to machine.
NOTES_OF_PIP = re.compile(r"\.dist-info/(INSTALLER|RECORD|REQUESTED|WHEEL|direct_url\.json|top_level\.txt)$")
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def hot_modules() -> dict[str, str]:
    """Return the modules that CNI commands import, name to path: found by importing them in a bare interpreter."""
    names = [name for name in contents.own_modules() if is_hot(name) and not name.endswith("__main__")]
    loaded = contents.loaded_by([*names, *ALSO_HOT])
    found = {name: origin for name, origin in loaded.items() if origin.endswith(".py")}
    import pyroute2

    found["pyroute2"] = pyroute2.__file__  # its spec is searched for, but it is never run
    found["pyroute2.netlink"] = pyroute2.netlink.__file__  # run, but not left in sys.modules (pyroute2_loader)
    found |= {name: os.path.join(os.path.dirname(os.__file__), f"{name}.py") for name in ALSO_FROZEN}
    found["ib_sriov_cni.__main__"] = os.path.join(ROOT, "ib_sriov_cni", "__main__.py")
    found.pop("__main__", None)
    return found


def is_hot(name: str) -> bool:
    """Whether a module of ours is used by CNI commands."""
    package, _, rest = name.partition(".")
    return package == "ipam" or rest.partition(".")[0] not in COLD_PACKAGES


class Lean(ast.NodeTransformer):
    """Removes what the program does not read but every process would load: docstrings, annotations of functions.

    Those of classes stay (ipam/protocol/value.py reads them). `from __future__` would also import a module; the
    compiler gets its meaning as a flag instead.
    """

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self.without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self.without_docstring(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.without_docstring(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node

    def without_docstring(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        self.generic_visit(node)
        if not node.body and not isinstance(node, ast.Module):
            node.body.append(ast.Pass(lineno=node.lineno, col_offset=node.col_offset))
        return node


def compile_module(name: str, path: str, *, lean: bool = False) -> CodeType:
    """Return the code of a source file; it contains no path of the build machine."""
    with tokenize.open(path) as file:
        text = file.read()
    shown = name.replace(".", "/") + ("/__init__.py" if is_package(path) else ".py")
    tree = ast.parse(text, shown)
    flags = 0
    if lean:
        if any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body):
            flags = __future__.annotations.compiler_flag
        tree = Lean().visit(tree)
    code = compile(tree, shown, "exec", flags, dont_inherit=True, optimize=0)
    # Marshal's references depend on the objects' reference counts; after reading back, nothing else refers to them.
    same: CodeType = marshal.loads(marshal.dumps(code))  # noqa: S302  # our own
    return same


def is_package(path: str) -> bool:
    return os.path.basename(path).startswith("__init__.")


class Modules:
    """The modules, gathered from what PyInstaller found and from the libraries."""

    def __init__(self, found: str, libraries: Libraries, main: str = "") -> None:
        """`found`: contents.json; `main`: a file in the place of ib_sriov_cni/__main__.py."""
        with open(found, encoding="utf-8") as file:
            self.found = json.load(file)
        self.libraries = libraries
        self.frozen: dict[str, tuple[CodeType, bool]] = {}  # name: code, whether a package
        self.archive: dict[str, bytes] = {}
        self.sources: dict[str, str] = {}  # path of what was compiled or copied: its name inside
        for name, path in sorted(hot_modules().items()):
            self.freeze(name, main if main and name == "ib_sriov_cni.__main__" else path)
        for name in ("_ib_sriov_boot", "_ib_sriov_start"):
            self.freeze(name, os.path.join(PROGRAM, f"{name}.py"))
        self.freeze("pyverbs", os.path.join(PROGRAM, "pyverbs_init.py"), package=True)
        for file_name in PYVERBS_SOURCES:
            self.freeze("pyverbs." + file_name.removesuffix(".py"), os.path.join(libraries.own, file_name))
        self.add_metadata()
        for name, path, _kind in self.found["pure"]:
            if path.endswith(".py"):
                self.add_module(name, path)
        for name, _path, kind in self.found["binaries"]:
            if kind == "EXTENSION":
                check_extension(name)
        for name, path, kind in sorted(self.found["datas"]):
            if name == "base_library.zip":
                self.add_base_library(path)
            elif kind != "SYMLINK" and not NOTES_OF_PIP.search(name):
                with open(path, "rb") as data:
                    self.archive[name] = data.read()
                self.sources[path] = name

    def freeze(self, name: str, path: str, *, package: bool = False) -> None:
        path = self.own_path(path)
        self.frozen[name] = (compile_module(name, path, lean=True), package or is_package(path))
        self.sources[path] = name

    def add_module(self, name: str, path: str) -> None:
        """Put a module into the archive, unless it is frozen or pyverbs', which PyInstaller found on this machine."""
        if name in self.frozen or name.partition(".")[0] == "pyverbs":
            return
        path = self.own_path(path)
        entry = name.replace(".", "/") + ("/__init__.pyc" if is_package(path) else ".pyc")
        self.archive[entry] = pyc(compile_module(name, path))
        self.sources[path] = name

    def add_base_library(self, path: str) -> None:
        """Add the part of the standard library that PyInstaller puts into a separate archive."""
        with zipfile.ZipFile(path) as base:
            names = base.namelist()
        for entry in names:
            name = entry.removesuffix(".pyc").replace("/", ".").removesuffix(".__init__")
            self.add_module(name, os.path.join(os.path.dirname(os.__file__), entry.removesuffix("c")))

    def add_metadata(self) -> None:
        """Have importlib.metadata know pyverbs, by the version of the rdma-core that it is of."""
        versions = {file.package: file.version for file in fetch.fetched() if file.architecture == "source"}
        upstream = versions["rdma-core"].rpartition("-")[0]
        text = f"Metadata-Version: 2.1\nName: pyverbs\nVersion: {upstream}\n"
        self.archive[f"pyverbs-{upstream}.dist-info/METADATA"] = text.encode()

    def own_path(self, path: str) -> str:
        """Return where the fetched package has a file of the standard library; any other path as it is."""
        host = os.path.dirname(os.__file__) + os.sep
        if not path.startswith(host):
            return path
        own = os.path.join(self.libraries.stdlib(), path.removeprefix(host))
        if not os.path.exists(own):
            sys.exit(f"build: {path} is not in the fetched package libpython3.11-stdlib")
        return own

    def zipped(self, more: dict[str, bytes]) -> bytes:
        """Return the archive, with `more` in it, as the bytes of a zip file."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, data in sorted({**self.archive, **more}.items()):
                info = zipfile.ZipInfo(name, ZIP_TIME)
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
        return buffer.getvalue()


def check_extension(name: str) -> None:
    """End the build if PyInstaller found an extension module that is neither linked in nor left out on purpose."""
    for suffix in EXTENSION_SUFFIXES:
        if name.endswith(suffix):
            dotted = name.removesuffix(suffix).replace("/", ".").removeprefix("lib-dynload.")
            if dotted.partition(".")[0].startswith("python3"):
                dotted = dotted.partition("lib-dynload.")[2]
            break
    else:
        sys.exit(f"build: {name} is no name of an extension module")
    known = dotted in sys.builtin_module_names or dotted in PYTHON_MODULES or dotted in LEFT_OUT
    if not known and not dotted.startswith("pyverbs."):
        sys.exit(
            f"build: the extension module {dotted} is linked into no library (packaging/libraries.py), "
            "and not left out on purpose (packaging/modules.py)"
        )


def pyc(code: CodeType) -> bytes:
    """Return a .pyc file that is not compared with its source (PEP 552, unchecked hash)."""
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)
