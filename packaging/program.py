"""Compile and link the program for a machine type.

packaging/build --step program [MACHINE]
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys

import static_code
from libraries import PROVIDERS, PYTHON_MODULES, PYVERBS, Libraries
from machines import CACHE, FLAGS, ROOT, fresh_folder, run
from modules import PROGRAM, Modules

INTERPRETER = os.path.join(ROOT, "packaging", "interpreter")
# Functions of the C library and of OpenSSL that program/host.c stands in for, and two of Python's (main.c).
WRAPPED = (
    *("__nss_database_get", "__nscd_get_map_ref", "__nscd_open_socket", "__libc_dlopen_mode", "dlopen", "dlerror"),
    *("CONF_modules_load_file_ex", "_PyImportZip_Init", "_Py_Deepfreeze_Init"),
)
# Files in program/, and the options they need beyond those of all: in version.c no call of the C library may be made
# of a loop, since that is not ready yet.
SOURCES = {"main.c": (), "host.c": (), "version.c": ("-ffreestanding", "-fno-tree-loop-distribute-patterns")}
# Files of the interpreter that are compiled here, changed by a patch in interpreter/, in the place of the fetched
# library's. The linker takes them first.
PATCHED = {"Objects/typeobject.c": "typeobject.patch"}
STACK_BYTES = 8 << 20


def version() -> str:
    """Return version.h, which program/version.c describes."""
    environ = {**os.environ, "CNI_COMMAND": "VERSION"}
    answer = run([sys.executable, "-m", "ib_sriov_cni"], cwd=ROOT, env=environ)
    return f"static const char version_answer[] = {json.dumps(answer)};\n"


def tables(modules: Modules) -> str:
    """Return tables.h, which program/main.c describes."""
    extensions = {name: name for name in PYTHON_MODULES} | {f"pyverbs.{name}": name for name in PYVERBS}
    lines = [f"extern PyObject *PyInit_{short}(void);" for short in extensions.values()]
    lines += ["static struct _inittab extensions[] = {"]
    lines += [f'\t{{"{name}", PyInit_{short}}},' for name, short in extensions.items()]
    lines += ["\t{0},", "};"]
    lines += [f"extern PyObject *{static_code.getter(name)}(void);" for name in sorted(modules.frozen)]
    lines += ["static const struct _frozen frozen[] = {"]
    for name, (_code, package) in sorted(modules.frozen.items()):
        lines += [f'\t{{.name = "{name}", .get_code = {static_code.getter(name)}, .is_package = {int(package)}}},']
    lines += ["\t{0},", "};"]
    # A provider registers itself when the program starts, if something refers to it.
    lines += [f"extern const char verbs_provider_{name}[];" for name in PROVIDERS]
    references = ", ".join(f"verbs_provider_{name}" for name in PROVIDERS)
    lines += ["extern const char *const providers[];", f"const char *const providers[] = {{{references}}};"]
    return "\n".join(lines) + "\n"


def link(modules: Modules, libraries: Libraries, work: str) -> tuple[bytes, list[str]]:
    """Return the program for the libraries' machine type, without an archive at its end, and what was linked."""
    fresh_folder(work)
    for name, text in (
        ("tables.h", tables(modules)),
        ("version.h", version()),
        ("code.c", static_code.write(os.path.join(libraries.own, "python"), modules.frozen)),
    ):
        with open(os.path.join(work, name), "w", encoding="utf-8") as file:
            file.write(text)
    for name in SOURCES:
        shutil.copy(os.path.join(PROGRAM, name), work)
    headers = ("-I", work, "-I", libraries.python_headers, "-I", f"{libraries.python_headers}/internal")
    flags = [*(flag for flag in FLAGS if flag != "-w"), f"-ffile-prefix-map={work}=.", *headers]
    warnings = ("-Wall", "-Wextra", "-Werror")
    objects = [
        *(
            compile_once(libraries, [*flags, *warnings, *more, "-c", os.path.join(work, name)])
            for name, more in SOURCES.items()
        ),
        # Nothing but data and calls.
        compile_once(libraries, [*flags, "-O0", "-w", "-DPy_BUILD_CORE", "-c", os.path.join(work, "code.c")]),
        *(compile_patched(libraries, name, work, [*flags, "-w"]) for name in PATCHED),
    ]
    program = os.path.join(work, "program")
    options = [f"-Wl,--wrap={name}" for name in WRAPPED]
    options += [
        "-Wl,--entry=begin",
        "-Wl,--gc-sections",
        "-Wl,--build-id=none",
        "-Wl,-O1",
        "-s",
        f"-Wl,-z,stack-size={STACK_BYTES}",
    ]
    options += ["-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"]
    # The interpreter and the C library side by side: the kernel maps sixteen pages at a time, and calls use these two.
    libc = os.path.join(libraries.root, "usr/lib", libraries.machine.triplet, "libc.a")
    names = sorted([*libraries.names(), libc], key=lambda path: not re.search(r"/lib(python3|c)\b", path))
    group = ["-Wl,--start-group", *names, "-Wl,--end-group"]
    command = [
        *libraries.compiler(),
        "-static",
        "-no-pie",
        *options,
        "-Wl,--trace",
        *objects,
        *group,
        "-lm",
        "-o",
        program,
    ]
    # A member of a library is printed as (LIBRARY)MEMBER.
    read = re.findall(r"^\(?(/[^()\n]*)", run(command), re.MULTILINE)
    read += [os.path.join(libraries.own, "python", name) for name in PATCHED]
    with open(program, "rb") as file:
        return file.read(), sorted({os.path.realpath(path) for path in read})


def compile_patched(libraries: Libraries, name: str, work: str, flags: list[str]) -> str:
    """Compile a file of PATCHED; return the object."""
    source = os.path.join(libraries.own, "python", name)
    changed = os.path.join(work, os.path.basename(name))
    run(["patch", "--silent", "--fuzz=0", f"--output={changed}", source, os.path.join(INTERPRETER, PATCHED[name])])
    # As CPython compiles it: it counts on signed numbers that wrap around.
    options = ["-fwrapv", "-DNDEBUG", "-DPy_BUILD_CORE", "-I", os.path.dirname(source)]
    return compile_once(libraries, [*flags, *options, "-c", changed])


def compile_once(libraries: Libraries, options: list[str]) -> str:
    """Compile a file, unless the same was compiled the same way before; return the object."""
    whole = hashlib.sha256(
        run([*libraries.compiler(), "-E", *(option for option in options if option != "-c")]).encode()
    )
    work = os.path.dirname(options[-1])
    whole.update(re.sub(re.escape(work), "", repr(options)).encode())
    target = os.path.join(CACHE, "objects", f"{libraries.machine.name}-{whole.hexdigest()[:16]}.o")
    if not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        run([*libraries.compiler(), *options, "-o", f"{target}.{os.getpid()}"])
        os.replace(f"{target}.{os.getpid()}", target)
    os.utime(target)
    return target
