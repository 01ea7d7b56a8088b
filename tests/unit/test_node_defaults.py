"""ib_sriov_cni.state.node_defaults: /etc/ib-sriov/defaults.json, and what a damaged one does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import InvalidConfiguration
from ib_sriov_cni.core.known_keys import KNOWN, NODE_WIDE
from ib_sriov_cni.state.node_defaults import apply_defaults, describe_origin, read_node_defaults
from ipam.protocol.bounds import NODE_DEFAULTS_BYTES
from ipam.protocol.request import Request, parse_request

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "defaults.json"


def write(path: Path, found: Any) -> str:
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    path.chmod(0o644)
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        read_node_defaults(path)
    assert caught.value.details == "correct the file, or remove it"
    prefix = f"node-wide defaults {path}: "
    assert caught.value.msg.startswith(prefix)
    return caught.value.msg.removeprefix(prefix)


def request(**conf: Any) -> Request:
    document = {"cniVersion": "1.0.0", "name": "ib", "deviceID": "0000:3b:00.2", **conf}
    return parse_request(ENVIRON, json.dumps(document).encode(), known_args=frozenset(), names=KNOWN)


def test_no_file(path: Path) -> None:
    assert read_node_defaults(str(path)) == {}
    assert read_node_defaults(str(path / "below" / "nothing")) == {}
    write(path, {})
    assert read_node_defaults(f"{path}/x") == {}


def test_a_file(path: Path) -> None:
    found = {"rdmaIsolation": True, "PodMayChoose": [], "mtu": None, "portTimeout": 20}
    assert read_node_defaults(write(path, found)) == {"rdmaIsolation": True, "podMayChoose": [], "portTimeout": 20}


def test_the_keys_of_a_network_win() -> None:
    defaults = {"rdmaIsolation": True, "podMayChoose": [], "logFile": "/var/log/ib.log", "portTimeout": 20}
    conf = parse_netconf(apply_defaults(request(), defaults))
    assert (conf.rdma_isolation, conf.pod_may_choose, conf.port_timeout) == (True, (), 20.0)
    own = request(RdmaIsolation=False, podMayChoose=["guid"], logFile="", portTimeout=None)
    conf = parse_netconf(apply_defaults(own, defaults))
    assert (conf.rdma_isolation, conf.pod_may_choose, conf.log_file) == (False, ("guid",), "")
    assert conf.port_timeout == 20.0, "null counts as absent"


def test_a_fault_of_a_default_says_where_it_is_from() -> None:
    defaults: dict[str, Any] = {"rdmaIsolation": "yes", "mtu": 2044}
    with pytest.raises(InvalidConfiguration) as caught:
        parse_netconf(apply_defaults(request(link_state="up"), defaults))
    words = "rdmaIsolation: from the node-wide defaults /etc/ib-sriov/defaults.json"
    assert describe_origin(caught.value.msg, defaults) == words
    assert describe_origin("link_state must be auto", defaults) == ""


def test_a_request_keeps_its_standard_input() -> None:
    asked = request()
    assert apply_defaults(asked, {}) is asked
    assert apply_defaults(asked, {"mtu": 2044}).stdin == asked.stdin
    assert "mtu" not in asked.conf


def test_every_key_that_is_allowed_is_one(path: Path) -> None:
    assert set(NODE_WIDE) < set(KNOWN)
    assert read_node_defaults(write(path, dict.fromkeys(NODE_WIDE, 1))) == dict.fromkeys(NODE_WIDE, 1)


@pytest.mark.parametrize("key", [*[key for key in KNOWN if key not in NODE_WIDE], "rdmaIsolaton"])
def test_a_key_that_cannot_be_node_wide(path: Path, key: str) -> None:
    text = refusal(write(path, {key: "x"}))
    assert text.startswith(f"{key} cannot be set for a whole node: only link_state, rdmaIsolation, ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it is not JSON: "),
        ('{"mtu": 2044,}', "it is not JSON: "),
        ("[]", "it is not a JSON object"),
        ('{"mtu": 1, "MTU": 2}', "mtu and MTU are one key, and must not have different values"),
        (" " * (NODE_DEFAULTS_BYTES + 1), f"it is larger than {NODE_DEFAULTS_BYTES} bytes"),
    ],
)
def test_what_is_damaged(path: Path, content: str, words: str) -> None:
    assert words in refusal(write(path, content))


def test_what_is_not_a_file_of_root(path: Path) -> None:
    write(path, {"rdmaIsolation": False})
    link = path.with_name("link")
    link.symlink_to(path)
    assert "symbolic links" in refusal(str(link))
    os.mkfifo(path.with_name("fifo"))  # whose reader would wait for ever
    assert "it is not a regular file" in refusal(str(path.with_name("fifo")))
    for mode in (0o664, 0o646):
        path.chmod(mode)
        assert "only root may be able to write to it" in refusal(str(path))
