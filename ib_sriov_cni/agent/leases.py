"""How full the bundled host-local's ranges are on this node. Without a lock: a figure decides nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ib_sriov_cni.attach.release import request_of
from ib_sriov_cni.delegate import BUNDLED
from ib_sriov_cni.records import Record
from ipam.config import parse_settings
from ipam.plugin import own_sets
from ipam.ranges import range_of, render_set
from ipam.store import lease_address

if TYPE_CHECKING:
    from ipam.ranges import RangeSet


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
    settings = parse_settings(request_of(record))
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


def count(range_set: RangeSet) -> int:
    """Give the number of addresses that can be handed out: all but the gateways."""
    return sum(part.end - part.start + 1 - (part.gateway in part) for part in range_set)
