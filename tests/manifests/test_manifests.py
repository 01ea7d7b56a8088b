"""An API server accepts every manifest, and the programs it starts understand their arguments."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ib_sriov_cni.agent.daemon import AgentSettings
from ib_sriov_cni.cli import main
from ib_sriov_cni.cli.output import Site
from ipam.host_local.slices import number_subnet
from tests.manifests.schemas import CUSTOM, custom_schema, faults, versions
from tests.manifests.sources import (
    KUBERNETES,
    ROOT,
    Text,
    blocks,
    build,
    kustomizations,
    manifest_files,
    objects,
    pages,
)

PATCHES = {"listen.yaml"}  # not whole objects; checked in what they are built into
NETWORKS = "k8s.v1.cni.cncf.io/networks"
RESOURCE = "k8s.v1.cni.cncf.io/resourceName"


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def daemonset(overlay: str) -> dict[str, Any]:
    (found,) = [thing for thing in build(KUBERNETES / "overlays" / overlay) if thing["kind"] == "DaemonSet"]
    return found


def agent(overlay: str) -> dict[str, Any]:
    (container,) = daemonset(overlay)["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def templates() -> list[tuple[str, dict[str, Any]]]:
    """Return the pod templates of all manifests, with the namespace they are in."""
    found = []
    things = [thing for file in manifest_files() if file.name not in PATCHES for thing in objects(file.read_text())]
    for thing in things:
        spec = thing.get("spec", {})
        holders = [spec, *spec.get("mpiReplicaSpecs", {}).values()]
        namespace = thing["metadata"].get("namespace", "")
        found += [(namespace, holder["template"]) for holder in holders if "template" in holder]
    return found


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("folder", kustomizations(), ids=name)
def test_what_kustomize_builds_is_valid(folder: Path, version: str) -> None:
    things = build(folder)
    assert things
    assert [fault for thing in things for fault in faults(thing, version)] == []


def test_an_older_kubernetes_takes_what_is_for_it() -> None:
    old, things = "1.25", build(KUBERNETES / "overlays/kubernetes-1.15")
    assert [fault for thing in things for fault in faults(thing, old)] == []
    assert [fault for fault in faults(daemonset("plain"), old) if "appArmorProfile" in fault]


@pytest.mark.parametrize("file", [file for file in manifest_files() if file.name not in PATCHES], ids=name)
def test_files_are_valid(file: Path) -> None:
    things = objects(file.read_text())
    assert things
    assert [fault for version in versions() for thing in things for fault in faults(thing, version)] == []


BLOCKS = [block for page in pages() for block in blocks(page) if "apiVersion: " in block.text]
KUSTOMIZE = "kustomize.config.k8s.io/"  # not an object of a cluster; kustomize itself reads it


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_what_the_documentation_shows_is_valid(block: Text) -> None:
    things = objects(block.text)
    assert things
    things = [thing for thing in things if not thing["apiVersion"].startswith(KUSTOMIZE)]
    assert [fault for version in versions() for thing in things for fault in faults(thing, version)] == []


def test_patches_are_used() -> None:
    assert {file.name for file in manifest_files() if file.name in PATCHES} == PATCHES


def test_schemas_refuse() -> None:
    """A check that accepts anything would pass all of the above."""
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b"}}
    newest = versions()[-1]
    assert faults(good, newest) == []
    assert "'datum' was unexpected" in faults(good | {"datum": {}}, newest)[0]
    assert "is not of type" in faults(good | {"data": {"a": 1}}, newest)[0]
    assert "schema for kind Frobnicate" in faults(good | {"kind": "Frobnicate"}, newest)[0]
    for kind in CUSTOM:
        ((group, version),) = list(custom_schema(kind))[-1:]
        odd = {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {}, "spec": {"odd": 1}}
        assert any("'odd' was unexpected" in fault for fault in faults(odd, newest)), kind
        assert faults(odd | {"apiVersion": f"{group}/v9"}, newest) != []


def test_the_agent_listens_on_loopback_unless_it_is_scraped() -> None:
    for overlay in ("plain", "isolation"):
        env = {item["name"]: item for item in agent(overlay)["env"]}
        assert env["LISTEN_HOST"] == {"name": "LISTEN_HOST", "value": "127.0.0.1"}
        assert agent(overlay)["livenessProbe"]["httpGet"]["host"] == "127.0.0.1"
    scraped = agent("monitoring")
    env = {item["name"]: item for item in scraped["env"]}
    assert env["LISTEN_HOST"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    assert "value" not in env["LISTEN_HOST"]
    assert "host" not in scraped["livenessProbe"]["httpGet"]
    (monitor,) = [thing for thing in build(KUBERNETES / "overlays/monitoring") if thing["kind"] == "PodMonitor"]
    labels = daemonset("monitoring")["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in {port["name"] for port in scraped["ports"]}


def test_the_alerts_are_the_ones_we_have() -> None:
    things = build(KUBERNETES / "overlays/monitoring")
    (rule,) = [thing for thing in things if thing["kind"] == "PrometheusRule"]
    alerts = yaml.safe_load((ROOT / "packaging/prometheus/alerts.yaml").read_text())
    assert rule["spec"] == alerts
    (monitor,) = [thing for thing in things if thing["kind"] == "PodMonitor"]
    jobs = [item for item in monitor["spec"]["podMetricsEndpoints"][0]["relabelings"] if item["targetLabel"] == "job"]
    assert f'job="{jobs[0]["replacement"]}"' in json.dumps(alerts).replace(chr(92), "")


@pytest.mark.parametrize("overlay", ["plain", "isolation", "monitoring", "pod-cidr", "kubernetes-1.15"])
def test_the_programs_take_their_arguments(overlay: str) -> None:
    spec = daemonset(overlay)["spec"]["template"]["spec"]
    (settings,) = [thing["data"] for thing in build(KUBERNETES / "overlays" / overlay) if thing["kind"] == "ConfigMap"]
    values = {"LISTEN_HOST": "192.0.2.1", **settings}
    for container in [*spec["initContainers"], *spec["containers"]]:
        name, *words = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in container["args"]]
        command = main.get_command(click.Context(main), name)
        assert command is not None
        command.make_context(name, words, obj=Site())


@pytest.mark.parametrize("overlay", ["plain", "isolation", "monitoring", "pod-cidr", "kubernetes-1.15"])
def test_the_pieces_fit(overlay: str) -> None:
    things = {thing["kind"]: thing for thing in build(KUBERNETES / "overlays" / overlay)}
    spec = daemonset(overlay)["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == things["ServiceAccount"]["metadata"]["name"]
    binding = things["ClusterRoleBinding"]
    assert binding["roleRef"]["name"] == things["ClusterRole"]["metadata"]["name"]
    assert [(subject["name"], subject["namespace"]) for subject in binding["subjects"]] == [
        (things["ServiceAccount"]["metadata"]["name"], things["ServiceAccount"]["metadata"]["namespace"])
    ]
    volumes = {volume["name"] for volume in spec["volumes"]}
    containers = [*spec["initContainers"], *spec["containers"]]
    mounts = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    assert mounts == volumes
    assert {container["image"] for container in containers} == {"ib-sriov:latest"}
    known = set(things["ConfigMap"]["data"]) | {item["name"] for item in agent(overlay)["env"]}
    used = {part.partition(")")[0] for word in agent(overlay)["args"] for part in word.split("$(")[1:]}
    assert used <= known
    assert set(things["ConfigMap"]["data"]) <= used  # every setting is read by something
    assert agent(overlay)["envFrom"] == [{"configMapRef": {"name": things["ConfigMap"]["metadata"]["name"]}}]
    assert agent(overlay)["ports"][0]["containerPort"] == int(things["ConfigMap"]["data"]["LISTEN_PORT"])


def test_rights_are_the_least() -> None:
    """docs/hardening.md says what each is for; what is added here must be added there."""
    (role,) = [thing for thing in build(KUBERNETES / "base") if thing["kind"] == "ClusterRole"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
    (role,) = [thing for thing in build(KUBERNETES / "overlays/pod-cidr") if thing["kind"] == "ClusterRole"]
    assert role["rules"][1:] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
    page = (ROOT / "docs/hardening.md").read_text()
    for container in [*daemonset("plain")["spec"]["template"]["spec"]["initContainers"], agent("plain")]:
        context = container["securityContext"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["readOnlyRootFilesystem"] is True
        assert "privileged" not in context
        for capability in context["capabilities"].get("add", []):
            assert f"`{capability}`" in page
    for volume in daemonset("plain")["spec"]["template"]["spec"]["volumes"]:
        assert f"`{volume['hostPath']['path']}`" in page


def test_the_slices_are_those_of_the_clusters_pod_cidrs() -> None:
    """The file is the one that the agent writes, and every node of a cluster with /24 for each has a slice."""
    things = {thing["kind"]: thing for thing in build(KUBERNETES / "overlays/pod-cidr")}
    slices = json.loads(things["NetworkAttachmentDefinition"]["spec"]["config"])["ipam"]["slices"]
    last = str(list(ip_network(things["ConfigMap"]["data"]["CLUSTER_CIDR"]).subnets(new_prefix=24))[-1])
    numbered = number_subnet(("cluster", "node"), things["ConfigMap"]["data"]["CLUSTER_CIDR"], last)
    assert numbered == (slices["count"] - 1, slices["count"])
    assert slices["indexFile"] == f"{AgentSettings.run_dir}/node-index"


def test_jobs_ask_for_the_network_and_for_its_resource() -> None:
    """One without the other gives a pod without a VF, or one that no node takes."""
    (network,) = build(KUBERNETES / "networks/flannel")
    identity = (network["metadata"]["namespace"], network["metadata"]["name"])
    resource = network["metadata"]["annotations"][RESOURCE]
    asking = [found for found in templates() if NETWORKS in found[1].get("metadata", {}).get("annotations", {})]
    assert len(asking) >= 2
    for namespace, template in asking:
        assert (namespace, template["metadata"]["annotations"][NETWORKS]) == identity
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"][resource] == container["resources"]["limits"][resource] == "1"
        assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]


def test_the_device_plugin_offers_what_the_networks_name() -> None:
    (config_map,) = objects((KUBERNETES / "device-plugin/configmap.yaml").read_text())
    config = json.loads(config_map["data"]["config.json"])
    offered = {f"{item['resourcePrefix']}/{item['resourceName']}" for item in config["resourceList"]}
    for folder in sorted((KUBERNETES / "networks").iterdir()):
        (network,) = build(folder)
        assert network["metadata"]["annotations"][RESOURCE] in offered
        assert json.loads(network["spec"]["config"])["name"] == network["metadata"]["name"]
