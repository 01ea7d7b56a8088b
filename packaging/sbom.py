"""What is inside, and under which terms: a CycloneDX bill of materials, and the licence texts.

Components are Python distributions (what their own metadata says) and the distribution's packages that the shared
objects and the interpreter come from (what dpkg says). A file that belongs to neither is a fault: it must not be
released without its terms.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import uuid
from importlib import metadata
from typing import Any

import contents

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def owner(path: str) -> str:
    """Name of the distribution's package that a file belongs to; "" for none."""
    for candidate in (path, os.path.realpath(path), os.path.realpath(path).removeprefix("/usr")):
        done = subprocess.run(["dpkg", "-S", candidate], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.splitlines()[0].partition(": ")[0].partition(",")[0].partition(":")[0]
    return ""


def debian(package: str) -> dict[str, Any]:
    """Component of a package of the distribution, with its licence text under "text"."""
    form = "${Version}\t${source:Package}\t${Architecture}"
    told = subprocess.run(["dpkg-query", "-W", "-f", form, package], capture_output=True, text=True, check=True).stdout
    version, source, machine = told.split("\t")
    with open(f"/usr/share/doc/{package}/copyright", encoding="utf-8", errors="replace") as file:
        text = file.read()
    names = sorted(set(re.findall(r"^License:\s*(\S.*)$", text, re.MULTILINE)))
    return {
        "type": "library",
        "name": package,
        "version": version,
        "description": f"of the source package {source}",
        "purl": f"pkg:deb/debian/{package}@{version}?arch={machine}",
        "licenses": [{"license": {"name": name}} for name in names] or [{"license": {"name": "see its text"}}],
        "text": text,
    }


def distribution(name: str) -> dict[str, Any]:
    """Component of a Python distribution, as above."""
    found = metadata.distribution(name)
    facts = found.metadata
    names = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or [] if line.startswith("License ::")]
    stated = facts.get("License-Expression") or ", ".join(names) or facts.get("License", "").partition("\n")[0]
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted(found.files or [])
        if re.search(r"(^|/)(licen[cs]e|copying|notice)[^/]*$", str(path), re.IGNORECASE) and path.suffix != ".py"
    ]
    if not texts:
        # One that came with the operating system's own package: that has the terms.
        package = next((it for it in (owner(str(path.locate())) for path in found.files or []) if it), "")
        if not package:
            sys.exit(f"build: the distribution {name} has no licence text")
        return debian(package)
    return {
        "type": "library",
        "name": facts["Name"],
        "version": found.version,
        "description": facts.get("Summary", ""),
        "purl": f"pkg:pypi/{name}@{found.version}",
        "licenses": [{"license": {"name": stated or "see its text"}}],
        "text": "\n\n".join(texts),
    }


def components(files: dict[str, str]) -> list[dict[str, Any]]:
    """All components, for files of the operating system's packages: path and name in the program."""
    packages: dict[str, list[str]] = {}
    for path in sorted(files):
        package = owner(path)
        if package:
            packages.setdefault(package, []).append(path)
        elif "-packages" not in path:  # a wheel's extension module: its distribution is there
            sys.exit(f"build: {path} belongs to no package: whose terms are its terms?")
    found = []
    for package, paths in sorted(packages.items()):
        component = debian(package)
        component["properties"] = [{"name": f"file:{files[path]}", "value": f"sha256:{digest(path)}"} for path in paths]
        found.append(component)
    for name in contents.requirements():
        component = distribution(name)
        mine = {str(metadata.distribution(name).locate_file(path)) for path in metadata.files(name) or []}
        component.setdefault("properties", []).extend(
            {"name": f"file:{files[path]}", "value": f"sha256:{digest(path)}"} for path in sorted(mine & set(files))
        )
        found.append(component)
    return list({item["purl"]: item for item in found}.values())


def document(version: str, found: list[dict[str, Any]], programs: dict[str, str]) -> dict[str, Any]:
    """The bill of materials; `programs`: digests of what was built, by name."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])))
    listed = [
        {"bom-ref": item["purl"], **{key: value for key, value in item.items() if key != "text" and value}}
        for item in found
    ]
    tool = {"type": "application", "name": "PyInstaller", "version": metadata.version("pyinstaller")}
    seed = json.dumps([version, programs, listed], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "version": 1,
        "metadata": {
            "timestamp": stamp,
            "tools": {"components": [tool]},
            "component": {
                "bom-ref": "ib-sriov",
                "type": "application",
                "name": "ib-sriov",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "properties": [
                    {"name": f"file:{name}", "value": f"sha256:{it}"} for name, it in sorted(programs.items())
                ],
            },
        },
        "components": listed,
        "dependencies": [{"ref": "ib-sriov", "dependsOn": [item["bom-ref"] for item in listed]}],
    }


def licences(found: list[dict[str, Any]]) -> str:
    """All texts in one file: ours, then each component's; the same text once."""
    with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as file:
        parts = [f"ib-sriov\n{'=' * 78}\n{file.read()}"]
    texts: dict[str, list[str]] = {}
    for item in found:
        texts.setdefault(item["text"].strip() + "\n", []).append(f"{item['name']} {item['version']}")
    parts += [f"{', '.join(names)}\n{'=' * 78}\n{text}" for text, names in texts.items()]
    return "\n\n".join(parts)


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
