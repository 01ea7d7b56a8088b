"""What a Kubernetes object may hold: the schemas of the API server's own kinds, and those of custom resources.

Both are read strictly: a field that the schema does not have is a fault, although an API server would drop it silently.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "1.30"  # the first whose pods have appArmorProfile
CUSTOM = ("NetworkAttachmentDefinition", "MPIJob", "PodMonitor", "PrometheusRule")


def versions() -> list[str]:
    """The oldest Kubernetes that the manifests are for, and the newest whose schemas are here."""
    return [OLDEST, kubernetes_validate.latest_version()]


def faults(thing: dict[str, Any], version: str) -> list[str]:
    """Return what is wrong with an object; a missing schema is a fault as well."""
    kind = f"{thing.get('kind')} {thing.get('apiVersion')}"
    if thing.get("kind") in CUSTOM:
        group, schema_version = str(thing.get("apiVersion")).split("/")
        schema = custom_schema(thing["kind"]).get((group, schema_version))
        if schema is None:
            return [f"{kind}: its definition has no such version"]
        found = jsonschema.Draft7Validator(schema).iter_errors(thing)
        return [f"{kind}: {'.'.join(map(str, fault.path))}: {fault.message}" for fault in found]
    try:
        kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.ValidationError as fault:
        return [f"{kind}: {'.'.join(map(str, fault.path))}: {fault.message}"]
    except kubernetes_validate.SchemaNotFoundError as fault:
        return [fault.message]
    return []


@functools.cache
def custom_schema(kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (group, version) to JSON schema, from a custom resource's definition."""
    command = [str(ROOT / "tests/tools/crd"), "--built", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr.strip()}: run tests/tools/need manifests"
    definition = yaml.safe_load(Path(done.stdout.strip()).read_text())
    schemas = {}
    for version in definition["spec"]["versions"]:
        schema = dict(version["schema"]["openAPIV3Schema"])
        # What every object has, and a definition need not list.
        schema["properties"] = {"apiVersion": {}, "kind": {}, "metadata": {}} | schema["properties"]
        schemas[definition["spec"]["group"], version["name"]] = strict(schema)
    return schemas


def strict(schema: Any) -> Any:
    """Reject members that are not listed, except where the definition allows any."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(item) for key, item in schema.items()}
    listed = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if listed and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made
