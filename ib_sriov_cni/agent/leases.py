"""How full the bundled host-local's ranges are on this node. Read without a lock: no decision depends on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.core.record import Record
from ib_sriov_cni.delegation.ipam_plugin import BUNDLED
from ipam.host_local.config import parse_place, parse_settings
from ipam.host_local.plugin import node_range_sets
from ipam.host_local.ranges import range_of, render_set
from ipam.host_local.store import lease_address, parse_lease
from ipam.protocol.bounds import LEASE_BYTES
from ipam.protocol.files import read_regular

if TYPE_CHECKING:
    from ipam.host_local.ranges import RangeSet


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The number of leased and of free addresses in one range set of one network."""

    network: str
    range_set: str
    used: int
    free: int


def read_usage(record: Record) -> list[Usage]:
    """Count the leases of a record's network, for each of its range sets; [] where another IPAM plugin serves it.

    Raises CniError (7, 11) if its configuration or this node's slice cannot be read, OSError if the leases cannot.
    """
    ipam = record.conf.get("ipam")
    if not isinstance(ipam, dict) or ipam.get("type") != BUNDLED:
        return []
    settings = parse_settings(make_del_request(record))
    folder = os.path.join(settings.place.data_dir, settings.place.network)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        names = []
    leased = [address for address in map(lease_address, names) if address is not None]
    found = []
    for range_set in node_range_sets(settings):
        used = sum(range_of(range_set, address) is not None for address in leased)
        free = max(0, usable_addresses(range_set) - used)
        found.append(Usage(network=record.key.network, range_set=render_set(range_set), used=used, free=free))
    return found


def read_unreserved(record: Record) -> list[str]:
    """Return the addresses of an attachment for which the bundled host-local has no lease of its container.

    CHECK reads the same under the lock on the leases. The agent must not wait for a process that holds it. Raises
    CniError (7) if the configuration cannot be read, OSError if a lease cannot.
    """
    ipam, ips = record.conf.get("ipam"), record.result.get("ips")
    if not isinstance(ipam, dict) or ipam.get("type") != BUNDLED or not isinstance(ips, list):
        return []
    place = parse_place(record.conf)
    folder = os.path.join(place.data_dir, place.network)
    found = []
    for address in [str(ip.get("address")).partition("/")[0] for ip in ips if isinstance(ip, dict)]:
        try:
            holder = parse_lease(read_regular(os.path.join(folder, address), LEASE_BYTES))
        except FileNotFoundError:
            holder = None
        if holder is None or holder.container_id != record.key.container_id:
            found.append(address)
    return found


def usable_addresses(range_set: RangeSet) -> int:
    """Return the number of addresses that can be handed out: all but the gateways."""
    return sum(part.end - part.start + 1 - (part.gateway in part) for part in range_set)
