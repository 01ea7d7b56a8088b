"""Address ranges and sets of ranges: pure arithmetic on integers (H1, H2)."""

from __future__ import annotations

from ipam.protocol.address import IPV4, parse_address, parse_cidr, render_address, render_cidr
from ipam.protocol.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipam.protocol.address import Address


class Range(Value):
    """The addresses `start` to `end` (inclusive) of a subnet. `gateway` is never handed out.

    `pool` (first, last) is what slices divide: start and end if one of them was configured, else the whole subnet.
    """

    bits: int
    prefix: int
    start: int
    end: int
    gateway: Address
    pool: tuple[int, int]

    def __contains__(self, address: Address) -> bool:
        """Return whether the address is in the range."""
        bits, number = address
        return bits == self.bits and self.start <= number <= self.end

    def __str__(self) -> str:
        """Return text like "10.0.0.1-10.0.0.254"."""
        return f"{render_address((self.bits, self.start))}-{render_address((self.bits, self.end))}"


if TYPE_CHECKING:
    RangeSet = tuple[Range, ...]


def render_set(range_set: RangeSet) -> str:
    """Return text like "10.0.0.1-10.0.0.99,10.0.1.1-10.0.1.99", as the Go plugin prints a set."""
    return ",".join([str(part) for part in range_set])


def range_of(range_set: RangeSet, address: Address) -> Range | None:
    """Return the range of the set that contains the address, or None."""
    for part in range_set:
        if address in part:
            return part
    return None


def ranges_overlap(one: Range, other: Range) -> bool:
    """Return whether two ranges have an address in common."""
    return one.bits == other.bits and one.start <= other.end and other.start <= one.end


def parse_range(item: Mapping[str, object]) -> Range:
    """Return the range of {subnet, rangeStart, rangeEnd, gateway}.

    Raises ValueError; each of its arguments is a fault (H2).
    """
    keys = ("subnet", "rangeStart", "rangeEnd", "gateway")
    texts = [item.get(key) for key in keys]
    subnet, start, end, gateway = [text if isinstance(text, str) else "" for text in texts]
    faults = [
        f"{key} is not a string"
        for key, text in zip(keys, texts, strict=True)
        if text is not None and not isinstance(text, str)
    ]
    bits = prefix = network = last = lowest = highest = 0
    try:
        if subnet or not faults:
            bits, prefix, network, last = _parse_subnet(subnet)
    except ValueError as error:
        faults.append(str(error))
    else:
        lowest, highest = network + 1, last - (bits == IPV4)
        if start:
            lowest = _parse_bound("rangeStart", start, subnet, (bits, network, last), faults)
        if end:
            highest = _parse_bound("rangeEnd", end, subnet, (bits, network, last), faults)
    router = (bits, network + 1)
    try:
        router = parse_address(gateway) if gateway else router
    except ValueError as error:
        faults.append(f"gateway {error}")
    if not faults and lowest > highest:
        first, final = [render_address((bits, number)) for number in (lowest, highest)]
        faults.append(f"the range starts at {first}, after its end {final}")
    if faults:
        raise ValueError(*faults)
    return Range(
        bits=bits,
        prefix=prefix,
        start=lowest,
        end=highest,
        gateway=router,
        pool=(lowest, highest) if start or end else (network, last),
    )


def _parse_subnet(text: str) -> tuple[int, int, int, int]:
    """Return (bits, prefix, first address, last address). Raises ValueError."""
    if not text:
        raise ValueError("subnet is missing")
    (bits, first), prefix = parse_cidr(text)
    if prefix > bits - 2:
        raise ValueError(f"subnet {text} is too small to allocate from")
    last = first | (1 << bits - prefix) - 1
    network = last + 1 - (1 << bits - prefix)
    if first != network:
        raise ValueError(f"subnet {text} has host bits set: the network is {render_cidr((bits, network), prefix)}")
    return bits, prefix, network, last


def _parse_bound(key: str, text: str, subnet: str, whole: tuple[int, int, int], faults: list[str]) -> int:
    """Return an address of the subnet `whole` (bits, first, last) as a number; 0 after adding a fault to `faults`."""
    bits, first, last = whole
    try:
        family, number = parse_address(text)
    except ValueError as error:
        faults.append(f"{key} {error}")
        return 0
    if family != bits or not first <= number <= last:
        faults.append(f"{key} {text} is not in the subnet {subnet}")
        return 0
    return number


def describe_fault(range_set: RangeSet) -> str:
    """Return what is wrong with a set as a whole; "" if nothing is."""
    if not range_set:
        return "empty range set"
    if len({part.bits for part in range_set}) > 1:
        return "mixed address families"
    overlaps = find_overlaps(list(enumerate(range_set)))
    if overlaps:
        one, other = overlaps[0]
        return f"subnets {range_set[one]} and {range_set[other]} overlap"
    return ""


def find_overlaps(numbered: list[tuple[int, Range]]) -> list[tuple[int, int]]:
    """Return pairs of the numbers of ranges that overlap, the lower number first.

    Of many ranges that overlap one another not all pairs are returned, but at least one with each of them: the ranges
    are passed once in the order of their addresses, because comparing each with each takes too long.
    """
    found: dict[tuple[int, int], None] = {}
    last: tuple[int, Range] | None = None  # of the ranges passed, the one that reaches furthest
    for number, part in sorted(numbered, key=lambda item: (item[1].bits, item[1].start)):
        if last is not None and ranges_overlap(last[1], part):
            found[min(last[0], number), max(last[0], number)] = None
        if last is None or part.bits != last[1].bits or part.end > last[1].end:
            last = (number, part)
    return sorted(found)
