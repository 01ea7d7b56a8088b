"""What is inside, and under which licences: a CycloneDX bill of materials, and the licence texts.

Every file that was linked or put into the archive is looked up: it is of a fetched package or source package
(fetch.py), of the compiler (dpkg says of which package), of a Python distribution (its RECORD says so), or ours. A file
that belongs to none is an error: it must not be released without its licence.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from importlib import metadata

import fetch
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot5
from libraries import Libraries
from machines import CACHE, ROOT, digest, run
from modules import Modules
from packageurl import PackageURL

# The libraries that are compiled of a source package other than rdma-core's.
COMPILED_OF = {"libpymodules.a": "python3.11"}
# pyverbs is rdma-core's, translated by Cython, whose own code is in it too.
TRANSLATED = "libpyverbs.a"


@dataclass(kw_only=True)
class Part:
    """A package or distribution that something of the program comes from; `files` maps names inside to SHA-256."""

    name: str
    version: str
    purl: str
    description: str
    licences: list[str]
    text: str
    files: dict[str, str] = field(default_factory=dict)


def package_owners(paths: list[str]) -> dict[str, str]:
    """Return the names of the Linux packages that files belong to, by path; a file of none is left out."""
    # dpkg knows a file by the path it was unpacked to, which /usr-merged systems show under another one.
    names = {path: {path, os.path.realpath(path), os.path.realpath(path).removeprefix("/usr")} for path in paths}
    asked = sorted(set().union(*names.values())) if names else []
    told = subprocess.run(["dpkg", "-S", *asked], capture_output=True, text=True, check=False).stdout
    found = {}
    for line in told.splitlines():
        package, colon, path = line.partition(": ")
        if colon and not package.startswith("diversion"):
            found[path] = package.partition(",")[0].partition(":")[0]
    return {path: found[name] for path in paths for name in sorted(names[path]) if name in found}


def distribution_owners() -> dict[str, str]:
    """Return the names of the Python distributions installed here, by path of each of their files."""
    return {
        os.path.normpath(str(path.locate())): found.metadata["Name"]
        for found in metadata.distributions()
        for path in found.files or []
    }


def fetched_owners(libraries: Libraries) -> dict[str, fetch.File]:
    """Return the fetched packages that the files below the libraries' root belong to, by path of each."""
    found = {}
    for file in fetch.fetched():
        if file.architecture == libraries.machine.debian:
            for line in run(["dpkg-deb", "-c", file.path]).splitlines():
                name = line.split(maxsplit=5)[5].partition(" -> ")[0]
                found[os.path.join(libraries.root, name.removeprefix("./"))] = file
    return found


def fetched(file: fetch.File, libraries: Libraries) -> Part:
    """A package, or a source package, that was fetched."""
    source = file.architecture == "source"
    path = os.path.join(libraries.root, "usr/share/doc", file.package, "copyright")
    if source:
        path = os.path.join(libraries.own, f"{file.package}.licence")
    with open(path, encoding="utf-8", errors="replace") as opened:
        text = opened.read()
    named = sorted(set(re.findall(r"^License:\s*(\S.*)$", text, re.MULTILINE)))
    return Part(
        name=file.package,
        version=file.version,
        purl=f"pkg:deb/debian/{file.package}@{file.version}?arch={file.architecture}",
        description=f"sources, {file.name}" if source else f"Debian's package {file.name}",
        licences=[] if source else named,
        text=text,
        files={file.name: file.sha256},
    )


def debian(package: str) -> Part:
    """A package of the distribution that is installed on this machine, the compiler's."""
    form = "${Version}\t${source:Package}\t${Architecture}"
    told = subprocess.run(["dpkg-query", "-W", "-f", form, package], capture_output=True, text=True, check=True).stdout
    version, source, machine = told.split("\t")
    with open(f"/usr/share/doc/{package}/copyright", encoding="utf-8", errors="replace") as file:
        text = file.read()
    return Part(
        name=package,
        version=version,
        purl=f"pkg:deb/debian/{package}@{version}?arch={machine}",
        description=f"of the source package {source}",
        licences=sorted(set(re.findall(r"^License:\s*(\S.*)$", text, re.MULTILINE))),
        text=text,
    )


def python(name: str) -> Part:
    """A Python distribution from an index."""
    found = metadata.distribution(name)
    facts = found.metadata
    names = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or [] if line.startswith("License ::")]
    stated = _field(facts, "License-Expression") or ", ".join(names) or _field(facts, "License").partition("\n")[0]
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted(found.files or [])
        if re.search(r"(^|/)(licen[cs]e|copying|notice)[^/]*$", str(path), re.IGNORECASE) and path.suffix != ".py"
    ]
    if not texts:
        sys.exit(f"build: the distribution {name} has no licence text")
    return Part(
        name=facts["Name"],
        version=found.version,
        purl=f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{found.version}",
        description=_field(facts, "Summary"),
        licences=[stated] if stated else [],
        text="\n\n".join(texts),
    )


def _field(facts: metadata.PackageMetadata, name: str) -> str:
    return next(iter(facts.get_all(name) or []), "")


def parts(modules: Modules, libraries: Libraries, linked: list[str]) -> list[Part]:
    """Return all parts of a program: of its modules, and of the files that the linker read."""
    named = {path: os.path.basename(path) for path in linked} | modules.sources
    own = tuple(os.path.join(ROOT, name) + os.sep for name in ("ib_sriov_cni", "ipam", "packaging"))
    foreign = [path for path in sorted(named) if not path.startswith((*own, os.path.join(CACHE, "objects")))]
    of_sources = {file.package: file for file in reversed(fetch.fetched()) if file.architecture == "source"}
    of_packages = fetched_owners(modules.libraries) | fetched_owners(libraries)
    of_python = distribution_owners()
    installed = package_owners([path for path in foreign if not path.startswith(CACHE)])
    found: dict[str, Part] = {}
    for path in foreign:
        owners = []
        if path.startswith((libraries.own + os.sep, modules.libraries.own + os.sep)):
            python_source = path.startswith(os.path.join(libraries.own, "python") + os.sep)
            source = "python3.11" if python_source else COMPILED_OF.get(named[path], "rdma-core")
            owners = [fetched(of_sources[source], libraries)]
            owners += [python("cython")] if named[path] == TRANSLATED else []
        elif path in of_packages:
            owners = [fetched(of_packages[path], libraries)]
        elif path in installed:
            owners = [debian(installed[path])]
        elif path in of_python:
            owners = [python(of_python[path])]
        if not owners:
            sys.exit(f"build: {path}: no package or distribution has it, so its licence is unknown")
        for owner in owners:
            found.setdefault(owner.purl, owner).files[named[path]] = digest(path)
    return sorted(found.values(), key=lambda part: part.purl)


def document(version: str, found: list[Part], programs: dict[str, str]) -> str:
    """The bill of materials as JSON text; `programs`: SHA-256 of what was built, by name."""
    ours = Component(
        name="ib-sriov",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref="ib-sriov",
        licenses=[DisjunctiveLicense(id="Apache-2.0")],
        properties=_properties(programs),
    )
    # Derived from what is listed, so that the same content has the same number. A part's files come in the order of
    # their paths, and those are this machine's.
    listing = json.dumps([version, programs, [vars(part) for part in found]], sort_keys=True)
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, listing))
    bom.metadata.timestamp = dt.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), dt.UTC)
    bom.metadata.component = ours
    bom.metadata.tools.components.add(
        Component(
            name="PyInstaller", version=metadata.version("pyinstaller"), type=ComponentType.APPLICATION, bom_ref="tool"
        )
    )
    listed = [_component(part) for part in found]
    for component in listed:
        bom.components.add(component)
    bom.register_dependency(ours, listed)
    return JsonV1Dot5(bom).output_as_string(indent=1) + "\n"


def _component(part: Part) -> Component:
    # One digest for the part as packed: of its files' digests, by name.
    whole = hashlib.sha256(json.dumps(part.files, sort_keys=True).encode()).hexdigest()
    return Component(
        name=part.name,
        version=part.version,
        type=ComponentType.LIBRARY,
        bom_ref=part.purl,
        purl=PackageURL.from_string(part.purl),
        description=part.description or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=whole)],
        licenses=[DisjunctiveLicense(name=name) for name in part.licences or ["see its text in LICENSES.txt"]],
        properties=_properties(part.files),
    )


def _properties(files: dict[str, str]) -> list[Property]:
    return [Property(name=f"file:{name}", value=f"sha256:{content}") for name, content in sorted(files.items())]


def licences(found: list[Part]) -> str:
    """Return all texts in one file: ours, then each part's; identical texts once."""
    with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as file:
        texts = [f"ib-sriov\n{'=' * 78}\n{file.read()}"]
    named: dict[str, list[str]] = {}
    for part in found:
        named.setdefault(part.text.strip() + "\n", []).append(f"{part.name} {part.version}")
    texts += [f"{', '.join(names)}\n{'=' * 78}\n{text}" for text, names in named.items()]
    return "\n\n".join(texts)
