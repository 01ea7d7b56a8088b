"""The packed program: a statically linked interpreter, with the modules of the CNI commands and all shared objects in
it, and a zip archive of everything else at its end. In the one-folder build the shared objects are separate files. What
PyInstaller found (contents.json) decides what goes in.

program/main.c says how it runs.
"""

from __future__ import annotations

import __future__  # isort: skip
import ast
import hashlib
import importlib.util
import io
import json
import marshal
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tokenize
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

import contents
import elf

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PROGRAM = os.path.join(HERE, "program")
# What CNI commands may import besides our own modules: what opens an RDMA device, and what fastjson falls back to.
ALSO_HOT = ("pyverbs.device", "json", "traceback", "encodings.utf_8", "encodings.ascii", "encodings.latin_1")
# Packages inside ib_sriov_cni that no CNI command imports: they are for people and for the agent.
COLD_PACKAGES = {"agent", "cli", "doctor", "node"}
# These are in every process that is linked with glibc.
OF_THE_HOST = ("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so", "libresolv.so", "ld-linux")
LIBPYTHON = "libpython"
# What is linked besides the interpreter: two libraries, and what the compiler adds to every program.
LINKED = (
    "libz.a",
    "libexpat.a",
    "crt1.o",
    "crti.o",
    "crtbegin.o",
    "crtend.o",
    "crtn.o",
    "libgcc.a",
    "libc_nonshared.a",
)
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def run(command: list[str], **options: Any) -> str:
    """Run a command of the build and return its output. If it fails, the build ends here and prints it."""
    done: subprocess.CompletedProcess[str]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"build: {shlex.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def hot_modules() -> dict[str, str]:
    """Return the modules that CNI commands import, name to path: found by importing them in a bare interpreter."""
    names = [name for name in contents.own_modules() if is_hot(name) and not name.endswith("__main__")]
    loaded = contents.loaded_by([*names, *ALSO_HOT])
    found = {name: origin for name, origin in loaded.items() if origin.endswith((".py", ".so"))}
    import pyroute2

    found["pyroute2"] = pyroute2.__file__  # its spec is searched for, but it is never run
    found["pyroute2.netlink"] = pyroute2.netlink.__file__  # run, but not left in sys.modules (pyroute2_loader)
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


def compile_module(name: str, path: str, *, lean: bool = False) -> bytes:
    """Return the marshalled code of a source file; it contains no path of the build machine."""
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
    return marshal.dumps(marshal.loads(marshal.dumps(code)))  # noqa: S302  # our own


def is_package(path: str) -> bool:
    return os.path.basename(path).startswith("__init__.")


class Packed:
    """The parts of the packed program, gathered from PyInstaller's contents and written into a folder."""

    def __init__(self, work: str) -> None:
        self.work = work
        with open(os.path.join(work, "contents.json"), encoding="utf-8") as file:
            self.found = json.load(file)
        self.frozen: dict[str, tuple[bytes, bool]] = {}  # name: marshalled code, whether a package
        self.shared: dict[str, str] = {}  # SONAME or module's file name: path
        self.extensions: dict[str, str] = {}  # module: key of shared
        self.providers: dict[str, str] = {}  # provider: key of shared
        self.needed: dict[str, list[str]] = {}
        self.stubs: dict[str, str] = {}  # SONAME of libpython: path of an empty library
        self.archive: dict[str, bytes] = {}
        self.sources: dict[str, str] = {}  # path of what was compiled or copied: its name inside

    def gather(self) -> None:
        hot = hot_modules()
        for name, path in sorted(hot.items()):
            if path.endswith(".py"):
                self.freeze(name, path)
        self.freeze("pyverbs", os.path.join(PROGRAM, "pyverbs_init.py"), package=True)
        self.freeze("_ib_sriov_start", os.path.join(PROGRAM, "_ib_sriov_start.py"))
        for name, path, _kind in self.found["pure"]:
            if name not in self.frozen and path.endswith(".py"):
                entry = name.replace(".", "/") + ("/__init__.pyc" if is_package(path) else ".pyc")
                self.archive[entry] = pyc(compile_module(name, path))
                self.sources[path] = name
        for name, path, kind in sorted(self.found["binaries"]):
            if kind == "EXTENSION":
                self.add_extension(name, path)
            elif kind == "BINARY":
                self.add_library(path)
        for provider, path in sorted(self.found["providers"].items()):
            self.providers[provider] = self.add_library(path)
        for name, path, kind in sorted(self.found["datas"]):
            if name == "base_library.zip":
                self.add_base_library(path)
            elif kind != "SYMLINK":
                with open(path, "rb") as file:
                    self.archive[name] = file.read()
                self.sources[path] = name
        self.resolve()

    def files(self) -> dict[str, str]:
        """Return the paths of all files that the program is made of, and the name of each inside."""
        named = [run([*compiler(), f"-print-file-name={name}"]).strip() for name in LINKED]
        found = {os.path.realpath(path): os.path.basename(path) for path in (*named, static_libpython())}
        return found | self.sources | {path: name for name, path in self.shared.items() if name not in self.stubs}

    def tree(self) -> str:
        """Return the name of the one-folder build's folder, derived from its content (ib_sriov_cni/cli/install.py)."""
        digest = hashlib.sha256()
        for name, path in sorted(self.shared.items()):
            with open(path, "rb") as file:
                digest.update(name.encode() + b"\0" + file.read())
        return ".ib-sriov-tree-" + digest.hexdigest()[:12]

    def write_folder(self, target: str) -> None:
        """Write the program and, next to it, the folder of its shared objects."""
        tree = self.tree()
        os.makedirs(os.path.join(target, tree))
        for name, path in sorted(self.shared.items()):
            copy = os.path.join(target, tree, name)
            shutil.copyfile(path, copy)
            os.chmod(copy, 0o644)
        self.write(os.path.join(target, "ib-sriov"), tree)

    def freeze(self, name: str, path: str, *, package: bool = False) -> None:
        self.frozen[name] = (compile_module(name, path, lean=True), package or is_package(path))
        self.sources[path] = name

    def add_base_library(self, path: str) -> None:
        """Add the part of the standard library that PyInstaller puts into a separate archive."""
        with zipfile.ZipFile(path) as base:
            names = base.namelist()
        for entry in names:
            name = entry.removesuffix(".pyc").replace("/", ".").removesuffix(".__init__")
            if name not in self.frozen:
                source = os.path.join(os.path.dirname(os.__file__), entry.removesuffix("c"))
                self.archive[entry] = pyc(compile_module(name, source))
                self.sources[source] = name

    def add_extension(self, name: str, path: str) -> None:
        for suffix in EXTENSION_SUFFIXES:
            if name.endswith(suffix):
                dotted = name.removesuffix(suffix).replace("/", ".").removeprefix("lib-dynload.")
                if dotted.partition(".")[0].startswith("python3"):
                    dotted = dotted.partition("lib-dynload.")[2]
                break
        else:
            sys.exit(f"build: {name} is no name of an extension module")
        if dotted in sys.builtin_module_names and dotted in STATIC:
            return
        self.extensions[dotted] = dotted + ".so"
        self.shared[dotted + ".so"] = path

    def add_library(self, path: str) -> str:
        path = os.path.realpath(path)
        name = elf.soname(path) or os.path.basename(path)
        if not name.startswith((*OF_THE_HOST, LIBPYTHON)):
            self.shared[name] = path
        return name

    def resolve(self) -> None:
        """Find which of the program's shared objects each one needs, and drop those that none needs.

        The build fails if one is missing.
        """
        left = [*self.extensions.values(), *self.providers.values()]
        while left:
            name = left.pop()
            if name in self.needed:
                continue
            path = self.shared[name]
            self.needed[name] = [item for item in elf.needed(path) if not item.startswith(OF_THE_HOST)]
            for item in self.needed[name]:
                if item.startswith(LIBPYTHON):
                    self.shared_stub(item)
                elif item not in self.shared:
                    sys.exit(f"build: {path} needs {item}, which PyInstaller did not find")
                left.append(item)
        self.shared = {name: path for name, path in self.shared.items() if name in self.needed}

    def shared_stub(self, soname: str) -> None:
        """Make an empty library of that name: modules that need libpython find its symbols in the program."""
        if soname in self.stubs:
            return
        path = os.path.join(self.work, soname)
        options = ("-shared", "-nostdlib", f"-Wl,-soname,{soname}", "-Wl,--build-id=none")
        run([*compiler(), *options, "-x", "c", os.devnull, "-o", path])
        self.stubs[soname] = self.shared[soname] = path

    def write(self, target: str, tree: str = "") -> None:
        """Compile and link the program and put the archive at its end; with a tree, without the shared objects."""
        self.freeze_text(
            "_ib_sriov_tables",
            f"EXTENSIONS = {dict(sorted(self.extensions.items()))!r}\n"
            f"NEEDED = {dict(sorted(self.needed.items()))!r}\nPROVIDERS = {dict(sorted(self.providers.items()))!r}\n"
            f"TREE = {tree!r}\n",
        )
        self.write_tables(tree)
        base = sysconfig.get_paths()["include"]
        library = static_libpython()
        program = os.path.join(self.work, "program")
        run(
            [
                *compiler(),
                *("-O2", "-g0", "-Wall", "-Wextra", "-no-pie", "-fno-pie", "-I", base, "-I", self.work),
                f"-ffile-prefix-map={self.work}=.",
                f"-ffile-prefix-map={ROOT}=.",
                *(os.path.join(PROGRAM, "main.c"), os.path.join(self.work, "blobs.S"), library, "-o", program),
                # Shared objects find Python's symbols in the program; those of its own libraries stay to themselves.
                *("-rdynamic", "-Wl,--exclude-libs,libz.a:libexpat.a", "-Wl,--build-id=none", "-Wl,-O1", "-s"),
                *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"),
                *("-Wl,-Bstatic", "-lexpat", "-lz", "-Wl,-Bdynamic", "-lm", "-ldl", "-lpthread", "-lutil"),
                "-Wl,--wrap=hypot,--wrap=arc4random_buf",
            ]
        )
        with open(program, "rb") as file:
            image = file.read()
        temporary = target + ".new"
        with open(temporary, "wb") as out:
            out.write(image)
            out.write(self.zipped())
        os.chmod(temporary, 0o755)  # noqa: S103  # it is to be executed
        os.replace(temporary, target)

    def freeze_text(self, name: str, text: str) -> None:
        code = compile(text, f"{name}.py", "exec", dont_inherit=True)
        self.frozen[name] = (marshal.dumps(marshal.loads(marshal.dumps(code))), False)  # noqa: S302

    def write_tables(self, tree: str) -> None:
        """Write the C tables, and the assembler file that includes the bytes as they are."""
        table, blobs = io.StringIO(), io.StringIO()
        answer = run([sys.executable, "-m", "ib_sriov_cni"], cwd=ROOT, env={**os.environ, "CNI_COMMAND": "VERSION"})
        table.write(f"static const char version_answer[] = {json.dumps(answer)};\n")
        modules = os.path.join(self.work, "modules.bin")
        table.write(f'#define TREE "{tree}"\nextern const unsigned char blob_modules[];\n')
        blobs.write('\t.section .rodata\n\t.globl blob_modules\nblob_modules:\n\t.incbin "modules.bin"\n')
        keys = sorted(self.shared)
        for index in range(0 if tree else len(keys)):
            table.write(f"extern const unsigned char blob_{index}[], blob_{index}_end[];\n")
            blobs.write(f"\t.balign 64\n\t.globl blob_{index}, blob_{index}_end\nblob_{index}:\n")
            blobs.write(f'\t.incbin "shared/{index}"\nblob_{index}_end:\n')
        blobs.write('\t.section .note.GNU-stack,"",%progbits\n')
        os.makedirs(os.path.join(self.work, "shared"), exist_ok=True)
        for index, key in enumerate(keys):
            shutil.copyfile(self.shared[key], os.path.join(self.work, "shared", str(index)))
        table.write("static const struct _frozen frozen[] = {\n")
        offset = 0
        with open(modules, "wb") as file:
            for name, (code, package) in sorted(self.frozen.items()):
                file.write(code)
                place = f".code = blob_modules + {offset}, .size = {len(code)}"
                table.write(f'\t{{.name = "{name}", {place}, .is_package = {int(package)}}},\n')
                offset += len(code)
        table.write("\t{0},\n};\nstatic const struct shared {\n\tconst char *name;\n")
        table.write("\tconst unsigned char *from, *to;\n} shared[] = {\n")
        for index, key in enumerate(keys):
            place = "NULL, NULL" if tree else f"blob_{index}, blob_{index}_end"
            table.write(f'\t{{"{key}", {place}}},\n')
        table.write("\t{0},\n};\n")
        for name, text in (("tables.h", table), ("blobs.S", blobs)):
            with open(os.path.join(self.work, name), "w", encoding="utf-8") as file_:
                file_.write(text.getvalue())

    def zipped(self) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, data in sorted(self.archive.items()):
                info = zipfile.ZipInfo(name, ZIP_TIME)
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
        return buffer.getvalue()


def pyc(code: bytes) -> bytes:
    """Return a .pyc file that is not compared with its source (PEP 552, unchecked hash)."""
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + code


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "cc"))


def static_libpython() -> str:
    """Return the path of the interpreter as a static library, of the same version that compiles the modules."""
    folder = sysconfig.get_config_var("LIBPL") or ""
    path = os.path.join(folder, f"libpython{sysconfig.get_python_version()}.a")
    if not os.path.exists(path):
        sys.exit(f"build: no {path}: install libpython{sysconfig.get_python_version()}-dev")
    return path


# Extension modules that the static library contains, as the building interpreter does.
STATIC = frozenset(sys.builtin_module_names)
