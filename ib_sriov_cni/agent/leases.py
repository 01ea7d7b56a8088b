"""How full the bundled host-local's ranges are on this node. Without a lock: a figure decides nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.core.record import Record
from ib_sriov_cni.delegation.ipam_plugin import BUNDLED
from ipam.host_local.config import parse_place, parse_settings
from ipam.host_local.plugin import own_sets
from ipam.host_local.ranges import range_of, render_set
from ipam.host_local.store import lease_address, parse_lease

if TYPE_CHECKING:
    from ipam.host_local.ranges import RangeSet


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of one range set of one network: how many of its addresses are leased, and how many are not."""

    network: str
    range_set: str
    used: int
    free: int


def newest_of_each_network(records: Iterable[Record]) -> dict[str, Record]:
    """Give each network's newest record: the configuration as the last ADD saw it."""
    newest: dict[str, Record] = {}
    for record in records:
        name = record.key.network
        if name not in newest or record.since > newest[name].since:
            newest[name] = record
    return newest


def read_usage(record: Record) -> list[Usage]:
    """Count the leases of a record's network; nothing where another IPAM plugin gives addresses. CniError, OSError."""
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
    for range_set in own_sets(settings):
        used = sum(range_of(range_set, address) is not None for address in leased)
        free = max(0, count(range_set) - used)
        found.append(Usage(network=record.key.network, range_set=render_set(range_set), used=used, free=free))
    return found


def unreserved(record: Record) -> list[str]:
    """Give the addresses of an attachment that the bundled host-local has not reserved for it (any more).

    CHECK asks the same, under the leases' lock; here a process that holds it must not keep the agent waiting.
    """
    ipam, ips = record.conf.get("ipam"), record.result.get("ips")
    if not isinstance(ipam, dict) or ipam.get("type") != BUNDLED or not isinstance(ips, list):
        return []
    place = parse_place(record.conf)
    folder = os.path.join(place.data_dir, place.network)
    found = []
    for address in [str(ip.get("address")).partition("/")[0] for ip in ips if isinstance(ip, dict)]:
        try:
            with open(os.path.join(folder, address), "rb") as file:
                holder = parse_lease(file.read(4096))
        except FileNotFoundError:
            holder = None
        if holder is None or holder.container_id != record.key.container_id:
            found.append(address)
    return found


def count(range_set: RangeSet) -> int:
    """Give the number of addresses that can be handed out: all but the gateways."""
    return sum(part.end - part.start + 1 - (part.gateway in part) for part in range_set)
