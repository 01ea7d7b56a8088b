"""What is inside, and under which licences: a CycloneDX bill of materials, and the licence texts.

Every packed file is looked up: it belongs to a package of the Linux distribution (dpkg says which), to a Python
distribution (its RECORD says so), or it is ours. A file that belongs to none is an error: it must not be released
without its licence.
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

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot5
from packageurl import PackageURL

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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


def digest(path: str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def debian(package: str) -> Part:
    """A package of the distribution."""
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


def parts(files: dict[str, str]) -> list[Part]:
    """Return all parts of a program, given the paths of what was packed and the name of each inside."""
    foreign = [path for path in sorted(files) if not path.startswith((f"{ROOT}/ib_sriov_cni/", f"{ROOT}/ipam/"))]
    foreign = [path for path in foreign if not path.startswith(f"{ROOT}/packaging/")]
    owned, distributed = package_owners(foreign), distribution_owners()
    unowned = [path for path in foreign if path not in owned and path not in distributed]
    if unowned:
        sys.exit(f"build: {', '.join(unowned)}: neither a package nor a distribution has it, so its licence is unknown")
    packages = {name: debian(name) for name in sorted(set(owned.values()))}
    names = sorted({distributed[path] for path in foreign if path not in owned})
    distributions = {name: python(name) for name in names}
    for path in foreign:
        part = packages[owned[path]] if path in owned else distributions[distributed[path]]
        part.files[files[path]] = digest(path)
    return [*packages.values(), *distributions.values()]


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
    bom = Bom(
        # Derived from what is listed, so that the same content has the same number.
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, repr([version, programs, found])),
    )
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
