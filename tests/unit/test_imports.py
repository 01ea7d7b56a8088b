"""Imports go downward only: the layers of docs/architecture.md, held by reading every source file.

All imports count, those inside functions too; only the blocks under `if TYPE_CHECKING:` do not,
because they are never executed.
"""

from __future__ import annotations

import ast
import os
import sys
import textwrap
from collections.abc import Iterator

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

# A module imports from the rows above its own, of its own package. A row may be a package: its
# parts (attach.add, cli.show) belong to it and may import each other.
IPAM = (
    ("errors", "value", "versions"),
    ("address", "fastjson"),
    ("request",),
    ("result",),
    ("ranges",),
    ("slices",),
    ("config",),
    ("allocator",),  # so far pure
    ("index", "lock", "resolvconf"),  # the disk
    ("store",),
    ("edge",),
    ("plugin",),
    ("__main__",),
)
PLUGIN = (
    ("errors",),
    ("model",),
    ("netconf", "plan", "undo"),  # pure
    ("standins", "trace"),
    ("log", "nlmsg", "syscalls", "statedir"),  # what doors share
    ("nlsock",),
    ("sysfs", "rtnl", "rdma", "verbs", "netns", "records", "locks", "delegate", "devinfo"),
    ("leftovers", "vfconfig"),  # doors
    ("host",),
    ("attach",),
    ("agent", "doctor"),
    ("cni", "cli"),  # edges
    ("__main__",),
)
TABLES = {"ipam": IPAM, "ib_sriov_cni": PLUGIN}
# The parts of ipam with I/O are for the plugin's doors and what is above them; values are for all.
IPAM_IO = {"index", "lock", "resolvconf", "store", "edge", "plugin"}
DOORS = next(i for i, row in enumerate(PLUGIN) if "sysfs" in row)
# Who may import a package that is not ours; any other is a dependency nobody has declared.
FOREIGN = {
    "click": {"ib_sriov_cni.cli"},
    "rich": {"ib_sriov_cni.cli"},
    "yaml": {"ib_sriov_cni.cli", "ib_sriov_cni.doctor"},
    "pyroute2": {"ib_sriov_cni.nlmsg", "ib_sriov_cni.rtnl", "ib_sriov_cni.rdma", "ib_sriov_cni.cli"},
    "pyverbs": {"ib_sriov_cni.verbs"},
    "prometheus_client": {"ib_sriov_cni.agent"},
    "_ib_sriov": {"ib_sriov_cni.syscalls"},  # the packed program's own (packaging/program/main.c)
    "_json": {"ipam.fastjson"},  # of the standard library, but no promise of it
}
# Too slow to start (docs/performance.md): on the path of ADD, DEL and CHECK imported, if at all,
# by the function that is in need of it.
SLOW = {
    *("argparse", "asyncio", "collections.abc", "contextlib", "dataclasses", "enum", "inspect", "ipaddress"),
    *("json", "logging", "pathlib", "re", "shutil", "socket", "subprocess", "tempfile", "traceback", "typing"),
}
COLD = {"ib_sriov_cni.agent", "ib_sriov_cni.cli", "ib_sriov_cni.doctor"}


class Import:
    """One name that a source file imports: its dotted name, its line, whether it runs at import time."""

    def __init__(self, name: str, line: int, *, at_once: bool) -> None:
        self.name = name
        self.line = line
        self.at_once = at_once


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports(source: str) -> list[Import]:
    """Every import of a source text; `from a import b` counts as a.b."""

    def walk(node: ast.AST, *, at_once: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_once=at_once)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{'.' * node.level}{node.module or ''}.{alias.name}"
                yield Import(name, node.lineno, at_once=at_once)
        children: list[ast.AST] = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and is_type_checking(node):
            children = list(node.orelse)
        inner = at_once and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in children:
            yield from walk(child, at_once=inner)

    return list(walk(ast.parse(source), at_once=True))


def first_part(name: str) -> str:
    return name.partition(".")[0]


def row_of(package: str, module: str) -> int | None:
    """The row of a module's first part in its package's table; -1 for the package itself."""
    if not module:
        return -1
    first = first_part(module)
    return next((i for i, row in enumerate(TABLES[package]) if first in row), None)


def fault_of_our_own(importer: str, target: str) -> str | None:
    """Why the module `importer` may not import `target`, both ours; None if it may."""
    package, _, module = importer.partition(".")
    to_package, _, to_module = target.partition(".")
    row, to_row = row_of(package, module), row_of(to_package, to_module)
    if to_row is None and "." not in to_module:
        to_row = -1  # a name of the package's __init__: __version__
    if row is None or to_row is None:
        return f"{importer if row is None else target} is in no layer: put it into the table of {__file__}"
    if package == to_package:
        if first_part(module) == first_part(to_module) or to_row < row:
            return None
        return f"{importer} (row {row}) imports {target} (row {to_row}): imports go downward only"
    if package == "ipam":
        return f"{importer} imports {target}: ipam stands on its own"
    if row < DOORS and first_part(to_module) in IPAM_IO:
        return f"{importer} imports {target}, which is not for rows below the doors"
    return None


def belongs(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def faults(importer: str, source: str) -> list[str]:
    """What is wrong with the imports of one module, each fault with its line."""
    package, _, module = importer.partition(".")
    found = []
    if row_of(package, module) is None:
        found.append(f"{importer} is in no layer: put it into the table of {__file__}")
    for item in imports(source):
        top = first_part(item.name)
        if not top:
            fault: str | None = "relative import"
        elif top in TABLES:
            fault = fault_of_our_own(importer, item.name)
        elif top in FOREIGN or top not in sys.stdlib_module_names:
            allowed = FOREIGN.get(top, set())
            fault = None if belongs(importer, allowed) else f"{importer} imports {top}: for {sorted(allowed)} only"
        elif item.at_once and not belongs(importer, COLD) and belongs(item.name, SLOW):
            fault = f"{importer} imports {item.name} at start: too slow for the hot path"
        else:
            fault = None
        if fault:
            found.append(f"line {item.line}: {fault}")
    return found


def sources() -> dict[str, str]:
    """Path of every source file of the two packages, by dotted module name."""
    found = {}
    for package in TABLES:
        for folder, _, names in os.walk(os.path.join(ROOT, package)):
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    dotted = os.path.relpath(path, ROOT).removesuffix(".py").replace(os.sep, ".")
                    found[dotted.removesuffix(".__init__")] = path
    return found


SOURCES = sources()


def test_sources_are_found() -> None:
    assert {"ib_sriov_cni", "ib_sriov_cni.cli", "ipam", "ipam.errors"} <= SOURCES.keys()


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_go_downward(module: str) -> None:
    with open(SOURCES[module], encoding="utf-8") as file:
        assert faults(module, file.read()) == []


def told(importer: str, source: str) -> list[str]:
    return faults(importer, textwrap.dedent(source))


@pytest.mark.parametrize(
    ("importer", "source", "word"),
    [
        ("ib_sriov_cni.model", "from ib_sriov_cni import host", "downward"),
        ("ib_sriov_cni.plan", "import ib_sriov_cni.sysfs", "downward"),
        ("ib_sriov_cni.plan", "import ib_sriov_cni.netconf", "downward"),
        ("ib_sriov_cni.rtnl", "def f():\n    from ib_sriov_cni.attach import add", "line 2"),
        ("ib_sriov_cni.model", "from ipam.plugin import add", "not for rows"),
        ("ib_sriov_cni.attach.add", "from ib_sriov_cni import cni", "downward"),
        ("ib_sriov_cni.novelty", "import os", "in no layer"),
        ("ib_sriov_cni.attach", "from ib_sriov_cni.novelty import thing", "in no layer"),
        ("ib_sriov_cni.attach", "from .plan import x", "relative"),
        ("ipam.store", "from ib_sriov_cni.model import Guid", "on its own"),
        ("ib_sriov_cni.cni", "import click", "click"),
        ("ib_sriov_cni.attach", "import pyroute2", "pyroute2"),
        ("ib_sriov_cni.cli", "import requests", "requests"),
        ("ipam.plugin", "import re", "too slow"),
        ("ipam.plugin", "from collections.abc import Callable", "too slow"),
        ("ipam.plugin", "try:\n    import json\nexcept ImportError:\n    pass", "too slow"),
        ("ipam.plugin", "class A:\n    from enum import Enum", "too slow"),
        ("ipam.plugin", "if TYPE_CHECKING:\n    pass\nelse:\n    import typing", "too slow"),
    ],
)
def test_the_rule_sees(importer: str, source: str, word: str) -> None:
    found = told(importer, source)
    assert len(found) == 1
    assert word in found[0]


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("ib_sriov_cni.rtnl", "from ib_sriov_cni import log, nlmsg, errors"),
        ("ib_sriov_cni.attach.add", "from ib_sriov_cni.attach import steps\nfrom ib_sriov_cni import host"),
        ("ib_sriov_cni.attach", "from ipam.plugin import add"),
        ("ib_sriov_cni.errors", "from ipam.errors import CniError"),
        ("ib_sriov_cni.cli.show", "import click, re\nfrom ib_sriov_cni import __version__"),
        ("ipam.plugin", "def f():\n    import re"),
        ("ipam.plugin", "if TYPE_CHECKING:\n    from ib_sriov_cni import cni\n    import typing"),
    ],
)
def test_the_rule_allows(importer: str, source: str) -> None:
    assert told(importer, source) == []
