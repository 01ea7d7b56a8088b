"""What docs/quickstart.md has people do, read from the page."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from tests.cluster.machine import PROJECT

PAGE = PROJECT / "docs/quickstart.md"
ADDRESS = re.compile(r"\b172\.16\.\d+\.\d+\b")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The last step's pods, and the kubectl commands that follow them; one that ends in & runs beside the next."""

    pods: str
    commands: tuple[str, ...]


def read_page() -> Page:
    text = PAGE.read_text()
    step = text[text.index("## 6. Two pods") :]
    (pods,) = [block for block in re.findall(r"```yaml\n(.*?)```", step, re.DOTALL) if "name: ib-a" in block]
    (block,) = [block for block in re.findall(r"```bash\n(.*?)```", step, re.DOTALL) if "kubectl exec" in block]
    return Page(pods=pods, commands=tuple(line for line in block.splitlines() if line.startswith("kubectl ")))


def place(pods: str, registry: str, nodes: list[str] | None = None) -> str:
    """The page's pods with images of a registry, each on a node, or where a scheduler puts them."""
    parts = pods.replace("<registry>", registry).split("---\n")
    for number, node in enumerate(nodes or ()):
        parts[number] = parts[number].replace("spec:\n", f"spec:\n  nodeName: {node}\n", 1)
    return "---\n".join(parts)


def arguments(command: str, address: str) -> list[str]:
    """A command's arguments for kubectl, with the address of ib-b in the place of the page's."""
    return shlex.split(ADDRESS.sub(address, command).removesuffix("&"))[1:]
