"""Choose the addresses of an attachment: host-local's policy, over a store that the caller passes in (H3, H4).

Round robin: the search starts after the address reserved last, so an address that was released is reused as late as
possible.
"""

from __future__ import annotations

from ipam.host_local.ranges import range_of, render_set
from ipam.protocol.address import render_address, render_cidr
from ipam.protocol.bounds import join_faults
from ipam.protocol.errors import AddressManagement
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from ipam.host_local.ranges import Range, RangeSet
    from ipam.protocol.address import Address

    class Leases(Protocol):
        """What the allocator needs from a store."""

        def held(self, holder: Holder) -> Sequence[Address]:
            """Return the addresses that an attachment holds, including those of leases without an interface name."""

        def cursor(self, index: int) -> Address | None:
            """Return the address reserved last in range set `index`; None if unknown."""

        def is_taken(self, address: Address) -> bool:
            """Return whether the address has a lease."""


class Holder(Value):
    """An attachment. Leases written by old versions of host-local have no `ifname`."""

    container_id: str
    ifname: str = ""


class Grant(Value):
    """An address for the attachment, from range set `index`."""

    index: int
    address: Address
    prefix: int
    gateway: Address

    @property
    def cidr(self) -> str:
        """The address with the subnet's prefix length, such as "10.1.2.3/24"."""
        return render_cidr(self.address, self.prefix)

    @property
    def gateway_text(self) -> str:
        """The gateway as text, such as "10.1.2.1"."""
        return render_address(self.gateway)


class NoneFree(AddressManagement):
    """Every suitable address has a lease."""


class Refusal(AddressManagement):
    """The allocation failed. `granted` has the addresses of the range sets before the one that failed."""

    def __init__(self, msg: str, granted: Sequence[Grant], *, none_free: bool = False) -> None:
        """`none_free`: the reason is that all addresses have leases, so removing a damaged lease may help."""
        super().__init__(msg)
        self.granted = tuple(granted)
        self.none_free = none_free


def allocate(
    sets: Sequence[RangeSet], requested: Sequence[Address], holder: Holder, leases: Leases
) -> tuple[Grant, ...]:
    """Return one address of each range set: a requested one if the set has it, else the next free one.

    Raises Refusal (104) if a set has none, or if a requested address is in no set or not available.
    """
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
        texts = join_faults([render_address(address) for address in wanted], " ")
        raise Refusal(f"failed to allocate all requested IPs: {texts}", granted)
    return tuple(granted)


def _grant(index: int, part: Range, address: Address) -> Grant:
    return Grant(index=index, address=address, prefix=part.prefix, gateway=part.gateway)


def _grant_asked(index: int, range_set: RangeSet, asked: Address, leases: Leases) -> Grant:
    part = range_of(range_set, asked)
    if part is None or asked == part.gateway:
        raise AddressManagement(f"requested ip {render_address(asked)} is subnet's gateway")
    if leases.is_taken(asked):
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
    found = next_free(range_set, leases.cursor(index), leases.is_taken)
    if found is None:
        raise NoneFree(f"no IP addresses available in range set: {render_set(range_set)}")
    return _grant(index, *found)


def next_free(
    range_set: RangeSet, cursor: Address | None, is_taken: Callable[[Address], bool]
) -> tuple[Range, Address] | None:
    """Return the first free address after the cursor, wrapping around to the cursor itself; None if all are taken."""
    for part, first, last in _arcs(range_set, cursor):
        gateway = part.gateway[1] if part.gateway[0] == part.bits else -1
        for number in range(first, last + 1):
            if number != gateway and not is_taken((part.bits, number)):
                return part, (part.bits, number)
    return None


def _arcs(range_set: RangeSet, cursor: Address | None) -> list[tuple[Range, int, int]]:
    """Return (range, first, last) of the parts to search, in order: all ranges, as a circle from the cursor on."""
    whole = [(part, part.start, part.end) for part in range_set]
    for index, part in enumerate(range_set):
        if cursor is not None and cursor in part:
            number = cursor[1]
            after = (part, number + 1, part.end)
            return [after, *whole[index + 1 :], *whole[:index], (part, part.start, number)]
    return whole
