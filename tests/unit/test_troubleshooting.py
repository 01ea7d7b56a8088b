"""docs/troubleshooting.md has every message of the programs; they are collected from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.core import errors

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("ib_sriov_cni/**/*.py"), *ROOT.glob("ipam/**/*.py")])
CLASSES = {*errors.__all__, "Refusal"}
# Functions that pass the description of an operation on to where KernelRefused or StateFailure is raised.
OPERATIONS = {"_ask", "_set", "_set_vf", "_altname", "remove_file"}
SHORTEST = 6  # characters: a shorter fragment would not identify a message


def fragments(node: ast.expr) -> list[str]:
    """The constant parts of a message, in order."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    if isinstance(node, ast.BinOp):
        return fragments(node.left)
    return []


def called(node: ast.Call) -> str:
    function = node.func
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def messages() -> Iterator[tuple[str, str]]:
    """Where each message is raised, and its longest constant part."""
    for path in SOURCES:
        if "cli" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args and called(node) in CLASSES | OPERATIONS):
                continue
            longest = max((part.strip(" :;,('") for part in fragments(node.args[0])), key=len, default="")
            if len(longest) >= SHORTEST:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", longest


MESSAGES = dict(messages())


def test_the_source_has_messages() -> None:
    assert len(MESSAGES) > 80


@pytest.mark.parametrize("place", MESSAGES)
def test_message_is_explained(place: str) -> None:
    text = " ".join((ROOT / "docs/troubleshooting.md").read_text().split())
    assert " ".join(MESSAGES[place].split()) in text, f"docs/troubleshooting.md lacks {MESSAGES[place]!r}"


def test_every_code_has_its_part() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text()
    codes = {getattr(errors, name).code for name in errors.__all__ if name != "CniError"}
    assert [code for code in sorted(codes) if f"## {code}:" not in text] == []
