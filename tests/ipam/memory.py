"""Leases in memory: what the allocator asks of a store, without a disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipam.host_local.allocator import Grant, Holder
    from ipam.protocol.address import Address


class MemoryStore:
    def __init__(self) -> None:
        self.leases: dict[Address, Holder] = {}
        self.cursors: dict[int, Address] = {}
        self.looks = 0

    def held(self, holder: Holder) -> list[Address]:
        return [address for address, owner in self.leases.items() if owner == holder]

    def cursor(self, index: int) -> Address | None:
        return self.cursors.get(index)

    def is_taken(self, address: Address) -> bool:
        self.looks += 1
        return address in self.leases

    def reserve(self, holder: Holder, grants: Sequence[Grant]) -> None:
        for grant in grants:
            assert grant.address not in self.leases
            self.leases[grant.address] = holder
            self.cursors[grant.index] = grant.address

    def release(self, holder: Holder) -> None:
        for address in self.held(holder):
            del self.leases[address]
