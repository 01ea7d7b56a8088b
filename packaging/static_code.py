"""Code objects of modules as C: static data that is used where it lies, so that an import does not unmarshal anything.

The writer is CPython's own (Tools/scripts/deepfreeze.py), which makes its standard modules so. That also interns their
names when the interpreter starts. Here they are not interned: equal names are one object anyway, and who looks one up
compares hash and text where the objects differ. It saves 5 % of a refused ADD's instructions and 0.3 MiB.

Memory that a process writes to is its own, page by page, and each first write to a page costs about as much as 5,000
instructions. Importing a module writes to its code objects and strings (counts of references, hashes). So these stand
together, and apart from them what is only read, and what belongs to modules that hardly a call imports.
"""

from __future__ import annotations

import io
import os
import re
import sys
from types import CodeType
from typing import Any

from modules import ALSO_FROZEN

# Modules that calls import; the others are for errors and the like.
OWN = ("_ib_sriov_", "ib_sriov_cni", "ipam", "pyroute2", "pyverbs", "struct", *ALSO_FROZEN)
DEFINITION = re.compile(r"^(\w+) = \{$", re.MULTILINE)
READ_ONLY = re.compile(r"_(linetable|exceptiontable|localspluskinds|localsplusnames|names|consts)$")


def getter(name: str) -> str:
    """Return the name of the C function that gives a module's code."""
    return f"_Py_get_{plain(name)}_toplevel"


def plain(name: str) -> str:
    return "m_" + name.replace("_", "_1").replace(".", "_2")


def write(python: str, frozen: dict[str, tuple[CodeType, bool]]) -> str:
    """Return the C text for modules (name: code, whether a package); `python`: CPython's own sources."""
    tool = _tool(python)
    printer = tool.Printer(io.StringIO())
    text = [printer.file.getvalue()]
    own, rare = [], []
    for name in sorted(frozen):
        (own if name.startswith(OWN) else rare).append(name)
    for section, names in (("own", own), ("rare", rare)):
        printer.file = io.StringIO()
        for name in names:
            printer.generate_file(plain(name), frozen[name][0])
        text.append(DEFINITION.sub(lambda found, section=section: _placed(found[1], section), printer.file.getvalue()))
    return "".join(text)


def _placed(name: str, section: str) -> str:
    """Return the start of a definition, with the section that the linker puts it into."""
    return f'{name} __attribute__((section(".data.code_{"read" if READ_ONLY.search(name) else section}"))) = {{'


def _tool(python: str) -> Any:
    folder = os.path.join(python, "Tools", "scripts")
    sys.path.insert(0, folder)
    try:
        import deepfreeze as tool
    finally:
        sys.path.remove(folder)
    tool.verbose = False
    # Its table of the interpreter's own strings has them as C source spells them: a "\n" of two characters there is
    # one character in the program. Strings with a backslash get data of their own.
    for text in [text for text in tool.strings if "\\" in text]:
        del tool.strings[text]
    return tool
