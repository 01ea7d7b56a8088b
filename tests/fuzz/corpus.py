"""Where the fuzzing starts: what runtimes really send, values known to cause trouble, and how to vary them."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

# A PCI domain that no machine has: no real device is ever touched.
PCI = "fffe:ff:1f.7"
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NAMES = ("ibnet", "a", "A.b-c_d", "..", "a/b", "", "x" * 300, "\u00e4", "a\0b", "-")
NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    1e300,
    2**70,
    "",
    "true",
    "\0",
    "../..",
    "/",
    "\ud83d\ude00",
    "x" * 5000,
    [],
    [[]],
    [None],
    {},
    {"": None},
    {"type": "host-local"},
)
GUIDS = ("00:11:22:33:44:55:66:77", "0011223344556677", "ff" * 8, "0" * 16, "0x1", "::", "\u0661" * 16)
ADDRESSES = ("10.0.0.2/24", "fd00::2/64", "10.0.0.2", "10.0.0.256/24", "::ffff:1.2.3.4/96", "1/1", "/")
PREVIOUS: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": "/run/netns/a", "mtu": 1450}],
    "ips": [{"address": "10.1.0.9/16", "gateway": "10.1.0.1", "interface": 0, "version": "4"}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400}],
    "dns": {"nameservers": ["10.1.0.53"], "domain": "a", "search": ["b"], "options": ["c"]},
    "ip4": {"ip": "10.1.0.9/16", "routes": [{"dst": "0.0.0.0/0"}]},
}
CONF: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "ibnet",
    "type": "ib-sriov",
    "deviceID": PCI,
    "pciBusID": PCI,
    "guid": GUIDS[0],
    "link_state": "enable",
    "rdmaIsolation": False,
    "pkey": "0x8001",
    "mtu": 2044,
    "ibKubernetesEnabled": False,
    "portTimeout": 0,
    "lockTimeout": 0,
    "ipamTimeout": 1,
    "logLevel": "error",
    "ipam": {"type": "host-local", "subnet": "10.0.0.0/24", "routes": [{"dst": "10.9.0.0/16"}]},
    "runtimeConfig": {"infinibandGUID": GUIDS[1], "deviceID": PCI, "ips": ["10.0.0.7/24"]},
    "args": {"cni": {"guid": GUIDS[0], "mellanox.infiniband.app": "configured", "pkey": "0x7fff"}},
    "prevResult": PREVIOUS,
    "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
    "cni.dev/attachments": [],
}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
words = st.sampled_from((*NASTY, *NAMES, *GUIDS, *ADDRESSES, *VERSIONS, PCI))
anything = words | documents


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every member and item of a document."""
    found: list[tuple[Any, ...]] = []
    items: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    for key, item in items:
        found += [(*path, key), *places(item, (*path, key))]
    return found


@st.composite
def varied(draw: st.DrawFn, document: Any, changes: int = 4) -> Any:
    """A document with a few members or items removed, replaced or added."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(0, changes))):
        options = places(copy)
        if not options:
            break
        path = draw(st.sampled_from(options))
        holder = copy
        for key in path[:-1]:
            holder = holder[key]
        kind = draw(st.integers(0, 3))
        if kind == 0:
            del holder[path[-1]]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = deepcopy(draw(anything))
        else:
            holder[path[-1]] = deepcopy(draw(anything))
    return copy


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> bytes:
    """A text with one piece cut out and another inserted."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 20)))
    pieces = st.sampled_from((b"", b"\0", b"\xff", b"{", b"]", b'"', b",", b"\\ud800", b"NaN", b"1e999", b"[" * 3000))
    return text[:start] + draw(pieces | st.binary(max_size=6)) + text[end:]


def replaced(document: Any, path: tuple[Any, ...], item: Any) -> Any:
    """Return the document with another value in one place."""
    copy = json.loads(json.dumps(document))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = item
    return copy


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()
