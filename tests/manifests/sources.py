"""Where manifests and configurations are found: YAML files, and the code blocks of the documentation."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "packaging/kubernetes"
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>[a-z]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<-?'?(?P<word>[A-Z]+)'?[^\n]*\n(?P<text>.*?)^\s*(?P=word)$", re.MULTILINE | re.DOTALL)
OURS = re.compile(r'"?type"?: *"?ib-sriov"?')


@dataclass(frozen=True)
class Text:
    """A piece of text and its place, such as docs/quickstart.md:42."""

    place: str
    text: str
    kind: str = ""  # the language that a code block names


def kustomizations() -> list[Path]:
    """Folders that kustomize builds. A component is not built on its own: an overlay uses it."""
    files = sorted(KUBERNETES.rglob("kustomization.yaml"))
    return [file.parent for file in files if yaml.safe_load(file.read_text())["kind"] == "Kustomization"]


@functools.cache
def build(folder: Path) -> tuple[dict[str, Any], ...]:
    """Return the objects that kustomize makes from a folder."""
    client = [str(ROOT / "tests/tools/go-client"), "--built", "kustomize"]
    kustomize = subprocess.run(client, capture_output=True, text=True, check=False)
    assert kustomize.returncode == 0, f"{kustomize.stderr.strip()}: run tests/tools/need manifests"
    command = [kustomize.stdout.strip(), "build", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr  # a deprecated field
    return tuple(yaml.safe_load_all(done.stdout))


def manifest_files() -> list[Path]:
    """Return every YAML file of packaging/kubernetes except kustomize's own."""
    return [file for file in sorted(KUBERNETES.rglob("*.y*ml")) if file.name != "kustomization.yaml"]


def objects(text: str) -> list[dict[str, Any]]:
    """Return the Kubernetes objects of a YAML text."""
    return [thing for thing in yaml.safe_load_all(text) if isinstance(thing, dict) and "apiVersion" in thing]


def pages() -> list[Path]:
    """Return all pages of the documentation."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packaging/**/*.md")])


def blocks(page: Path) -> Iterator[Text]:
    """Return the code blocks of a page; each document that a shell block feeds to a command is a block as well."""
    whole = page.read_text()
    for fence in FENCE.finditer(whole):
        place = f"{page.relative_to(ROOT)}:{whole.count(chr(10), 0, fence.start()) + 1}"
        indent, text = fence["indent"], fence["text"]
        text = "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))
        yield Text(place, text, fence["kind"])
        for heredoc in HEREDOC.finditer(text):
            yield Text(f"{place}, here-document", heredoc["text"])


def configurations(source: Text) -> Iterator[dict[str, Any]]:
    """Return each network configuration of ours in a text: JSON as it is, or in the objects of a YAML text.

    A list of plugins yields its plugins, each with the list's name and version, as libcni passes them on.
    """
    if not OURS.search(source.text):
        return
    try:
        documents = list(yaml.safe_load_all(source.text))  # JSON is YAML
    except yaml.YAMLError:
        return
    for document in documents:
        if not isinstance(document, dict):
            continue
        spec = document.get("spec")
        conf = json.loads(spec["config"]) if isinstance(spec, dict) and "config" in spec else document
        for plugin in conf.get("plugins", [conf]):
            if plugin.get("type") == "ib-sriov":
                yield {"cniVersion": conf.get("cniVersion"), "name": conf.get("name")} | plugin
