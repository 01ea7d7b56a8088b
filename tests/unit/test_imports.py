"""Imports go downward only: each folder belongs to a layer, and every source file is read.

All imports count, those inside functions too; only the blocks under `if TYPE_CHECKING:` do not,
because they are never executed.
"""

from __future__ import annotations

import ast
import graphlib
import os
import sys
import textwrap
from collections.abc import Iterator

import pytest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

# The layers, lowest first; a folder is called a room here, a layer a floor. A module imports from its own folder and
# from folders in lower layers. `cni`, which runtimes call, and the two `__main__` are single modules at the top.
FLOORS = (
    ("ipam.protocol",),
    ("ipam.host_local", "ib_sriov_cni.core"),
    ("ib_sriov_cni.telemetry",),
    ("ib_sriov_cni.kernel", "ib_sriov_cni.state"),
    ("ib_sriov_cni.delegation",),
    ("ib_sriov_cni.attach",),
    ("ib_sriov_cni.node",),
    ("ib_sriov_cni.agent", "ib_sriov_cni.doctor"),
    ("ib_sriov_cni.cli",),
    ("ib_sriov_cni.cni",),
    ("ib_sriov_cni.__main__", "ipam.__main__"),
)
PACKAGES = ("ib_sriov_cni", "ipam")
# The folders that serve or inspect IPAM: only they may use the lease store.
SERVE_IPAM = {
    *("ipam.host_local", "ib_sriov_cni.delegation", "ib_sriov_cni.agent", "ib_sriov_cni.doctor", "ib_sriov_cni.cli"),
    *("ib_sriov_cni.__main__", "ipam.__main__"),
}
# Which of our modules may import a third-party package; a package that is not listed is an undeclared dependency.
FOREIGN = {
    "click": {"ib_sriov_cni.cli"},
    "rich": {"ib_sriov_cni.cli"},
    "yaml": {"ib_sriov_cni.cli", "ib_sriov_cni.doctor"},
    "pyroute2": {"ib_sriov_cni.kernel.pyroute2_loader", "ib_sriov_cni.cli"},
    "pyverbs": {"ib_sriov_cni.kernel.pyverbs_loader"},
    "_ib_sriov": {"ib_sriov_cni.kernel.syscalls"},  # built into the packed program (packaging/program/main.c)
    "prometheus_client": {"ib_sriov_cni.agent"},
    "h2": {"ib_sriov_cni.agent.cri"},
    "_json": {"ipam.protocol.fastjson"},  # in the standard library, but not a public module
}
# Too slow to import at start (docs/performance.md): on the path of ADD, DEL and CHECK only a function that
# needs one of these may import it.
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


def room_of(name: str) -> str | None:
    """The folder (room) of a module or of a name in one; "" for a package's own __init__, None if it is in none."""
    parts = name.split(".")
    if len(parts) == 1 or (len(parts) == 2 and parts[1] == "__version__"):
        return ""
    room = ".".join(parts[:2])
    return room if any(room in floor for floor in FLOORS) else None


def floor_of(room: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if room in floor)


def fault_of_our_own(importer: str, target: str) -> str | None:
    """Why the module `importer` may not import `target`, both ours; None if it may."""
    room, to_room = room_of(importer), room_of(target)
    if room is None or to_room is None:
        return f"{importer if room is None else target} is in no room: put its folder into the table of {__file__}"
    if to_room in {"", room}:
        return None
    if first_part(importer) == "ipam" and first_part(target) != "ipam":
        return f"{importer} imports {target}: ipam stands on its own"
    if room == "" or floor_of(to_room) >= floor_of(room):
        return f"{importer} imports {target}: imports go downward only"
    if to_room == "ipam.host_local" and room not in SERVE_IPAM:
        return f"{importer} imports {target}, which is for the rooms that serve IPAM only"
    return None


def belongs(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def faults(importer: str, source: str) -> list[str]:
    """What is wrong with the imports of one module, each fault with its line."""
    found = []
    if room_of(importer) is None:
        found.append(f"{importer} is in no room: put its folder into the table of {__file__}")
    for item in imports(source):
        top = first_part(item.name)
        if not top:
            fault: str | None = "relative import"
        elif top in PACKAGES:
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
    for package in PACKAGES:
        for folder, _, names in os.walk(os.path.join(ROOT, package)):
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    dotted = os.path.relpath(path, ROOT).removesuffix(".py").replace(os.sep, ".")
                    found[dotted.removesuffix(".__init__")] = path
    return found


SOURCES = sources()


def test_sources_are_found() -> None:
    assert {"ib_sriov_cni", "ib_sriov_cni.cli", "ipam", "ipam.protocol.errors"} <= SOURCES.keys()


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_go_downward(module: str) -> None:
    with open(SOURCES[module], encoding="utf-8") as file:
        assert faults(module, file.read()) == []


def test_every_folder_is_a_room() -> None:
    rooms = {room for floor in FLOORS for room in floor}
    folders = {name.rpartition(".")[0] for name in SOURCES if name.count(".") == 2} | {
        name for name in SOURCES if name.count(".") == 1
    }
    assert folders == rooms


@pytest.mark.parametrize("room", [room for floor in FLOORS for room in floor if SOURCES[room].endswith("__init__.py")])
def test_every_room_says_what_it_may_import(room: str) -> None:
    with open(SOURCES[room], encoding="utf-8") as file:
        words = ast.get_docstring(ast.parse(file.read())) or ""
    assert "May import" in words


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports within a folder must not form a cycle either, though no table gives their order."""
    graph = {}
    for module, path in SOURCES.items():
        with open(path, encoding="utf-8") as file:
            names = {item.name for item in imports(file.read())}
        targets = {name if name in SOURCES else name.rpartition(".")[0] for name in names}
        graph[module] = {
            target for target in targets if target in SOURCES and not SOURCES[target].endswith("__init__.py")
        }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def told(importer: str, source: str) -> list[str]:
    return faults(importer, textwrap.dedent(source))


@pytest.mark.parametrize(
    ("importer", "source", "word"),
    [
        ("ib_sriov_cni.core.values", "from ib_sriov_cni.attach import host", "downward"),
        ("ib_sriov_cni.core.plan", "import ib_sriov_cni.kernel.sysfs", "downward"),
        ("ib_sriov_cni.state.records", "import ib_sriov_cni.kernel.sysfs", "downward"),
        ("ib_sriov_cni.kernel.rtnetlink", "def f():\n    from ib_sriov_cni.attach import add", "line 2"),
        ("ib_sriov_cni.core.values", "from ipam.host_local.plugin import add", "downward"),
        ("ib_sriov_cni.attach.add", "from ipam.host_local.plugin import add", "serve IPAM"),
        ("ib_sriov_cni.attach.add", "from ib_sriov_cni import cni", "downward"),
        ("ib_sriov_cni.novelty", "import os", "in no room"),
        ("ib_sriov_cni.attach", "from ib_sriov_cni.novelty import thing", "in no room"),
        ("ib_sriov_cni.attach", "from .plan import x", "relative"),
        ("ipam.host_local.store", "from ib_sriov_cni.core.values import Guid", "on its own"),
        ("ipam.protocol.request", "from ipam.host_local.store import Store", "downward"),
        ("ib_sriov_cni.cni", "import click", "click"),
        ("ib_sriov_cni.attach", "import pyroute2", "pyroute2"),
        ("ib_sriov_cni.cli", "import requests", "requests"),
        ("ipam.host_local.plugin", "import re", "too slow"),
        ("ipam.host_local.plugin", "from collections.abc import Callable", "too slow"),
        ("ipam.host_local.plugin", "try:\n    import json\nexcept ImportError:\n    pass", "too slow"),
        ("ipam.host_local.plugin", "class A:\n    from enum import Enum", "too slow"),
        ("ipam.host_local.plugin", "if TYPE_CHECKING:\n    pass\nelse:\n    import typing", "too slow"),
    ],
)
def test_the_rule_sees(importer: str, source: str, word: str) -> None:
    found = told(importer, source)
    assert len(found) == 1
    assert word in found[0]


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        (
            "ib_sriov_cni.kernel.rtnetlink",
            "from ib_sriov_cni.kernel import syscalls\nimport ib_sriov_cni.telemetry.log",
        ),
        ("ib_sriov_cni.attach.add", "from ib_sriov_cni.attach import steps\nfrom ib_sriov_cni.state import records"),
        ("ib_sriov_cni.delegation.ipam_plugin", "from ipam.host_local.plugin import add"),
        ("ib_sriov_cni.core.errors", "from ipam.protocol.errors import CniError"),
        ("ib_sriov_cni.cli.show", "import click, re\nfrom ib_sriov_cni import __version__"),
        ("ipam.host_local.plugin", "def f():\n    import re"),
        ("ipam.host_local.plugin", "if TYPE_CHECKING:\n    from ib_sriov_cni import cni\n    import typing"),
    ],
)
def test_the_rule_allows(importer: str, source: str) -> None:
    assert told(importer, source) == []
