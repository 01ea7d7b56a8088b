"""Every CNI configuration that a reader may copy is accepted by the plugin, key by key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.core.configuration import parse_netconf
from ipam.host_local.config import parse_settings
from ipam.host_local.slices import cut_sets, find_slice
from ipam.protocol.request import parse_request
from tests.manifests.sources import OURS, ROOT, Text, blocks, configurations, manifest_files, pages

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "4f5e6d",
    "CNI_NETNS": "/run/netns/4f5e6d",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin",
}
# Keys of the specification and of Multus; ours are in the tables of docs.
PROTOCOL = {"cniVersion", "name", "type", "capabilities", "args", "runtimeConfig", "pciBusID", "prevResult", "dns"}
FILES = [Text(str(file.relative_to(ROOT)), file.read_text()) for file in manifest_files()]
BLOCKS = [block for page in pages() for block in blocks(page)]
FOUND = {
    f"{source.place} #{number}": conf
    for source in [*FILES, *BLOCKS]
    for number, conf in enumerate(configurations(source), 1)
}


def place(source: Text) -> str:
    return source.place


def documented_keys() -> set[str]:
    text = (ROOT / "docs/configuration.md").read_text()
    return set(re.findall(r"^\| `([A-Za-z_]+)` \|", text, re.MULTILINE))


def test_they_are_found() -> None:
    places = {where.partition(":")[0].partition(" #")[0] for where in FOUND}
    assert {"README.md", "README.zh.md", "docs/quickstart.md"} <= places
    assert len({where for where in places if where.startswith("packaging/")}) >= 4
    assert {"deviceID", "ipam", "link_state"} <= documented_keys()


@pytest.mark.parametrize("source", [text for text in [*FILES, *BLOCKS] if OURS.search(text.text)], ids=place)
def test_none_is_hidden_from_the_parser(source: Text) -> None:
    """A block that cannot be read would never be checked."""
    inner = [block for block in BLOCKS if block.place.startswith(f"{source.place}, ")]
    assert any(list(configurations(text)) for text in [source, *inner])


@pytest.mark.parametrize("conf", FOUND.values(), ids=FOUND.keys())
def test_the_plugin_takes_it(conf: dict[str, Any]) -> None:
    conf = {"deviceID": "0000:3b:00.2"} | conf  # Multus puts it there
    request = parse_request(ENVIRON, json.dumps(conf).encode(), known_args=frozenset())
    parse_netconf(request)
    assert set(conf) - PROTOCOL - documented_keys() == set()
    if conf.get("ipam", {}).get("type") == "host-local":
        settings = parse_settings(request)
        if settings.slices is not None:
            # the third of three nodes with the usual /24 each
            subnet_env = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.2.1/24\n"
            files = {"/run/flannel/subnet.env": subnet_env, "/run/ib-sriov/node-index": "2\n"}
            part = find_slice(settings.slices, files.__getitem__)
            assert (part.index, part.count) == (2, 256)
            assert cut_sets(settings.sets, part)


@pytest.mark.parametrize("folder", sorted((ROOT / "packaging/kubernetes/networks").iterdir()), ids=lambda f: f.name)
def test_the_command_line_has_nothing_to_say(folder: Path) -> None:
    """Neither an error nor a warning for what a user may pass to `ib-sriov config validate`."""
    command = [sys.executable, "-m", "ib_sriov_cni", "config", "validate", "--strict", str(folder / "network.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "a", "cniVersion": "1.0.0", "type": "ib-sriov", "mtu": 2044}',
        '{"name": "a", "cniVersion": "1.0.0", "plugins": [{"type": "ib-sriov", "mtu": 2044}, {"type": "tuning"}]}',
        'kind: X\nspec:\n  config: |\n    {"name": "a", "cniVersion": "1.0.0", "type": "ib-sriov", "mtu": 2044}\n',
    ],
)
def test_where_configurations_are_seen(text: str) -> None:
    found: list[dict[str, Any]] = list(configurations(Text("here", text)))
    assert found == [{"name": "a", "cniVersion": "1.0.0", "type": "ib-sriov", "mtu": 2044}]
