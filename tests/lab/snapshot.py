"""The host as a test found it, compared in one line: `assert_as_before(before)`."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.lab import commands
from tests.lab.commands import links, names, read_json
from tests.lab.emulated_hca import Hca, rdma_mode

STATE_DIRS = ("/var/lib/cni",)
LOCKS = "/run/ib-sriov"
DEFAULT_MTUS = (1020, 2044, 4092)
"""An IPoIB netdev starts with 4092 and falls to 2044 for good when it joins this fabric's broadcast group.

With the knob mcast_mtu=1024 it falls to 1020.
"""

UNCOMPARED = re.compile(r"(.*/)?(last_reserved_ip\.[^/]*|lock)$")
"""Files that an attachment leaves behind rightly: where round robin stands, and the store's lock."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Facts by name; `listed` are named in a failure, and not compared."""

    hca: Hca
    state_dirs: tuple[str, ...]
    facts: dict[str, str]
    listed: tuple[str, ...]

    def assert_as_before(self, *, timeout: float = 20) -> None:
        assert_as_before(self, timeout=timeout)


def host_snapshot(hca: Hca, state_dirs: Sequence[str] = STATE_DIRS) -> Snapshot:
    """Everything of the host that an attachment may change and a detachment must restore."""
    facts: dict[str, str] = {}
    facts |= _netdevs()
    facts["RDMA devices in init"] = " ".join(commands.rdma_names())
    facts["RDMA netns mode"] = rdma_mode()
    for each in hca.pfs:
        facts |= _functions(each)
    files, listed = _files(state_dirs)
    facts |= files
    facts |= {f"lock {name}": "held" for name in _held_locks()}
    return Snapshot(hca=hca, state_dirs=tuple(state_dirs), facts=facts, listed=tuple(listed))


def assert_as_before(before: Snapshot, *, timeout: float = 20) -> None:
    """Wait until the host is as it was; fail with one line for each fact that differs."""
    difference = ["not looked at"]

    def same() -> bool:
        now = host_snapshot(before.hca, before.state_dirs)
        difference[:] = differences(before.facts, now.facts)
        if difference:
            difference.extend(f"(not compared: {name})" for name in now.listed)
        return not difference

    if not commands.wait(same, timeout, 0.1):
        raise AssertionError("the host is not as it was before:\n  " + "\n  ".join(difference))


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """One line for each fact that is not the same on both sides."""
    absent = "(absent)"
    keys = list(before) + [key for key in now if key not in before]
    return [
        f"{key}: {before.get(key, absent)} before, {now.get(key, absent)} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _netdevs() -> dict[str, str]:
    """The netdevs of init: name, alternative names, whether it is up, MTU, addresses of its own choosing."""
    facts = {}
    for link in links():
        mtu = "default" if link["mtu"] in DEFAULT_MTUS else link["mtu"]
        up = "up" if "UP" in link["flags"] else "down"
        # the kernel's own link-local address comes and goes with the carrier
        own = [each for each in link["addr_info"] if each["scope"] != "link"]
        addresses = sorted(f"{each['local']}/{each['prefixlen']}" for each in own)
        parts = [up, f"mtu {mtu}", f"of {link.get('parentdev', '-')}", *link.get("altnames", []), *addresses]
        facts[f"netdev {link['ifname']}"] = " ".join(str(part) for part in parts)
    return facts


def _functions(hca: Hca) -> dict[str, str]:
    """The PF and its VFs: driver, RDMA device, GUIDs from both sides, link state."""
    facts = {f"PF {hca.pf} RDMA device": hca.pf_rdma, f"PF {hca.pf} numvfs": str(hca.numvfs)}
    shown = read_json(["ip", "-j", "link", "show", "dev", hca.pf_netdev])[0].get("vfinfo_list", [])
    for vf in range(hca.numvfs):
        name = f"VF {vf} ({hca.pci(vf)})"
        rdma = hca.rdma(vf)
        facts[f"{name} driver"] = hca.driver(vf) or "none"
        facts[f"{name} driver_override"] = commands.read(hca.vf_path(vf) / "driver_override")
        facts[f"{name} netdevs in init"] = " ".join(hca.netdevs(vf)) or "none"
        facts[f"{name} RDMA device in init"] = rdma or "none"
        facts[f"{name} node GUID"] = hca.node_guid(vf) if rdma else "unseen"
        facts[f"{name} port GUID"] = hca.port_guid(vf) if rdma else "unseen"
    for each in shown:
        vf = each["vf"]
        name = f"VF {vf} ({hca.pci(vf)}) at the PF"
        # without a driver it has none of its own
        bound = hca.rdma_anywhere(vf) is not None
        facts[f"{name}: node GUID"] = _pf_guid(each.get("node guid"), hca.node_guid(vf) if bound else None)
        facts[f"{name}: port GUID"] = _pf_guid(each.get("port guid"), hca.port_guid(vf) if bound else None)
        facts[f"{name}: link state"] = str(each.get("link_state", "none"))
    return facts


def _pf_guid(found: str | None, own: str | None) -> str:
    """The PF's driver knows only what was set through it since it was loaded: zero is "never set".

    A VF that has a GUID keeps it over a rebind when the PF holds that one or holds none.
    """
    zero = "00:00:00:00:00:00:00:00"
    return "none, or the VF's own" if found in (None, zero, own) and own != zero else str(found)


def _files(state_dirs: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Leases, records and whatever else lies below the state folders: text, or a hash of what is long."""
    facts: dict[str, str] = {}
    listed: list[str] = []
    for folder in state_dirs:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_dir():
                continue
            if UNCOMPARED.match(str(path)):
                listed.append(str(path))
                continue
            try:
                raw = path.read_bytes()
            except FileNotFoundError:
                continue
            short = repr(raw.decode(errors="replace"))
            long = f"{len(raw)} bytes, sha256 {sha256(raw).hexdigest()[:16]}"
            facts[f"file {path}"] = short if len(raw) <= 200 else long
    return facts, listed


def _held_locks() -> list[str]:
    """The lock files that somebody holds at this moment."""
    held = []
    for name in names(LOCKS):
        with open(Path(LOCKS, name)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(name)
    return held
