"""Code objects of modules as C: static data that is used where it lies, so that an import does not unmarshal anything.

The writer is CPython's own (Tools/scripts/deepfreeze.py), which makes its standard modules so. That also interns their
names when the interpreter starts. Here they are not interned: equal names are one object anyway, and who looks one up
compares hash and text where the objects differ. It saves 5 % of a refused ADD's instructions and 0.3 MiB.
"""

from __future__ import annotations

import io
import os
import sys
from types import CodeType
from typing import Any


def getter(name: str) -> str:
    """Return the name of the C function that gives a module's code."""
    return f"_Py_get_{plain(name)}_toplevel"


def plain(name: str) -> str:
    return "m_" + name.replace("_", "_1").replace(".", "_2")


def write(python: str, frozen: dict[str, tuple[CodeType, bool]]) -> str:
    """Return the C text for modules (name: code, whether a package); `python`: CPython's own sources."""
    tool = _tool(python)
    out = io.StringIO()
    printer = tool.Printer(out)
    for name, (code, _package) in sorted(frozen.items()):
        printer.generate_file(plain(name), code)
    return out.getvalue()


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
