"""Which address an attachment gets: host-local's policy over a store that is handed in (H3, H4).

Round robin, from the address after the one reserved last; a container in a crash loop sees the whole set go
by before it sees an address again.
"""

from __future__ import annotations

from ipam.host_local.ranges import range_of, render_set
from ipam.protocol.address import render_address, render_cidr
from ipam.protocol.errors import AddressManagement
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from ipam.host_local.ranges import Range, RangeSet
    from ipam.protocol.address import Address

    class Leases(Protocol):
        """What the allocator asks of a store."""

        def held(self, holder: Holder) -> Sequence[Address]:
            """Give the addresses an attachment holds, those of records without interface name included."""

        def cursor(self, index: int) -> Address | None:
            """Give the address reserved last in a set."""

        def taken(self, address: Address) -> bool:
            """Tell whether somebody holds the address."""


class Holder(Value):
    """An attachment; records of old versions have no `ifname`."""

    container_id: str
    ifname: str = ""


class Grant(Value):
    """An address for the attachment out of range set `index`."""

    index: int
    address: Address
    prefix: int
    gateway: Address

    @property
    def cidr(self) -> str:
        """The address with the subnet's prefix length, "10.1.2.3/24"."""
        return render_cidr(self.address, self.prefix)

    @property
    def gateway_text(self) -> str:
        """The gateway, "10.1.2.1"."""
        return render_address(self.gateway)


class NoneFree(AddressManagement):
    """Every address that would do has a lease."""


class Refusal(AddressManagement):
    """No address; `granted` are those of the sets before the one that failed."""

    def __init__(self, msg: str, granted: Sequence[Grant], *, none_free: bool = False) -> None:
        """Keep the grants that came before, and whether clearing away a lease could help."""
        super().__init__(msg)
        self.granted = tuple(granted)
        self.none_free = none_free


def allocate(
    sets: Sequence[RangeSet], requested: Sequence[Address], holder: Holder, leases: Leases
) -> tuple[Grant, ...]:
    """Choose one address of each set; Refusal if a set has none or a requested address is in no set."""
    wanted = list(requested)
    held = leases.held(holder)
    granted: list[Grant] = []
    for index, range_set in enumerate(sets):
        asked = next((address for address in wanted if range_of(range_set, address)), None)
        try:
            if asked is not None:
                wanted.remove(asked)
                granted.append(_grant_asked(index, range_set, asked, leases))
            else:
                granted.append(_grant_next(index, range_set, holder, held, leases))
        except AddressManagement as error:
            raise Refusal(
                f"failed to allocate for range {index}: {error.msg}", granted, none_free=isinstance(error, NoneFree)
            ) from None
    if wanted:
        texts = " ".join([render_address(address) for address in wanted])
        raise Refusal(f"failed to allocate all requested IPs: {texts}", granted)
    return tuple(granted)


def _grant(index: int, part: Range, address: Address) -> Grant:
    return Grant(index=index, address=address, prefix=part.prefix, gateway=part.gateway)


def _grant_asked(index: int, range_set: RangeSet, asked: Address, leases: Leases) -> Grant:
    part = range_of(range_set, asked)
    if part is None or asked == part.gateway:
        raise AddressManagement(f"requested ip {render_address(asked)} is subnet's gateway")
    if leases.taken(asked):
        raise NoneFree(
            f"requested IP address {render_address(asked)} is not available in range set {render_set(range_set)}"
        )
    return _grant(index, part, asked)


def _grant_next(index: int, range_set: RangeSet, holder: Holder, held: Sequence[Address], leases: Leases) -> Grant:
    for address in held:
        if range_of(range_set, address):
            raise AddressManagement(
                f"{render_address(address)} has been allocated to {holder.container_id}, "
                "duplicate allocation is not allowed"
            )
    found = next_free(range_set, leases.cursor(index), leases.taken)
    if found is None:
        raise NoneFree(f"no IP addresses available in range set: {render_set(range_set)}")
    return _grant(index, *found)


def next_free(
    range_set: RangeSet, cursor: Address | None, taken: Callable[[Address], bool]
) -> tuple[Range, Address] | None:
    """Give the first free address after the cursor, wrapping, the cursor's own last; None if there is none."""
    for part, first, last in _arcs(range_set, cursor):
        gateway = part.gateway[1] if part.gateway[0] == part.bits else -1
        for number in range(first, last + 1):
            if number != gateway and not taken((part.bits, number)):
                return part, (part.bits, number)
    return None


def _arcs(range_set: RangeSet, cursor: Address | None) -> list[tuple[Range, int, int]]:
    """Give the stretches to search, in order: the circle of all ranges, cut behind the cursor."""
    whole = [(part, part.start, part.end) for part in range_set]
    for index, part in enumerate(range_set):
        if cursor is not None and cursor in part:
            number = cursor[1]
            behind = (part, number + 1, part.end)
            return [behind, *whole[index + 1 :], *whole[:index], (part, part.start, number)]
    return whole
