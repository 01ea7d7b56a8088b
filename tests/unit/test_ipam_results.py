"""ib_sriov_cni.delegation.ipam_plugin: what IPAM plugins return, and what of it counts (C10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.delegation.ipam_plugin import add_addresses
from ib_sriov_cni.kernel.syscalls import PR_SET_CHILD_SUBREAPER, _call
from tests.unit.test_ipam_plugin import Plugins


@pytest.fixture(autouse=True)
def no_subreaper() -> Iterator[None]:
    yield
    _call("prctl", PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


CLUSTER_DNS = {"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]}
# What IPAM plugins print, from their sources: what is printed, and addresses, gateways and routes that count.
RETURNED: dict[str, tuple[dict[str, Any], list[tuple[str, str | None]], list[tuple[str, str | None]]]] = {
    "host-local": (
        {
            "cniVersion": "0.4.0",
            "ips": [{"version": "4", "address": "10.1.2.3/24", "gateway": "10.1.2.1"}],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {},
        },
        [("10.1.2.3/24", "10.1.2.1")],
        [("0.0.0.0/0", None)],
    ),
    "static": (
        {"cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24"}, {"address": "fd00::3/64"}], "dns": CLUSTER_DNS},
        [("10.1.2.3/24", None), ("fd00::3/64", None)],
        [],
    ),
    # One gateway for all of its ranges.
    "whereabouts": (
        {
            "cniVersion": "1.0.0",
            "ips": [
                {"address": "10.1.2.3/24", "gateway": "10.1.2.1"},
                {"address": "fd00::3/64", "gateway": "10.1.2.1"},
            ],
            "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.2.1"}],
            "dns": {},
        },
        [("10.1.2.3/24", "10.1.2.1"), ("fd00::3/64", "10.1.2.1")],
        [("10.9.0.0/16", "10.1.2.1")],
    ),
    "nv-ipam": (
        {
            "cniVersion": "1.0.0",
            "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}],
            "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.2.1"}],
            "dns": {},
        },
        [("10.1.2.3/24", "10.1.2.1")],
        [("10.9.0.0/16", "10.1.2.1")],
    ),
    # An interface of its own, without a name where it only manages addresses, and addresses that belong to it.
    "kube-ovn": (
        {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "", "mac": "00:00:00:8d:6f:0e", "mtu": 1400, "sandbox": "/run/netns/x"}],
            "ips": [
                {"interface": 0, "address": "10.1.2.3/24", "gateway": "10.1.2.1"},
                {"interface": 0, "address": "fd00::3/64", "gateway": "fd00::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "::/0", "gw": "fd00::1"}],
            "dns": {},
        },
        [("10.1.2.3/24", "10.1.2.1"), ("fd00::3/64", "fd00::1")],
        [("0.0.0.0/0", "10.1.2.1"), ("::/0", "fd00::1")],
    ),
    # Until 0.3 one interface of the same name for each address.
    "spiderpool": (
        {
            "cniVersion": "0.3.1",
            "interfaces": [{"name": "net1"}, {"name": "net1"}],
            "ips": [
                {"version": "4", "interface": 0, "address": "10.1.2.3/24", "gateway": ""},
                {"version": "6", "interface": 1, "address": "fd00::3/64"},
            ],
            "routes": [{"dst": "10.9.0.0/16", "gw": "10.1.2.1"}],
            "dns": CLUSTER_DNS,
        },
        [("10.1.2.3/24", None), ("fd00::3/64", None)],
        [("10.9.0.0/16", "10.1.2.1")],
    ),
    "index without interfaces": (
        {"ips": [{"interface": 0, "address": "10.1.2.3/24"}, {"interface": -1, "address": "10.1.2.4/24"}]},
        [("10.1.2.3/24", None), ("10.1.2.4/24", None)],
        [],
    ),
    "interfaces of any kind": (
        {"interfaces": [{}, 7, None], "ips": [{"interface": "net1", "address": "10.1.2.3/24"}], "routes": None},
        [("10.1.2.3/24", None)],
        [],
    ),
}


@pytest.mark.parametrize("name", list(RETURNED))
def test_what_counts_of_a_result(tmp_path: Path, name: str) -> None:
    """Addresses, routes and DNS; the interface is ours."""
    plugins = Plugins(tmp_path)
    printed, ips, routes = RETURNED[name]
    (plugins.folder / "answer").write_text(json.dumps(printed))
    plugins.add("cat $HERE/answer")
    result = add_addresses(plugins.request(), "my-ipam", plugins.log)
    assert [(ip.address, ip.gateway, ip.interface) for ip in result.ips] == [(*ip, None) for ip in ips]
    assert [(route.dst, route.gw) for route in result.routes] == routes
    assert (result.interfaces, result.dns) == ((), printed.get("dns", {}))
