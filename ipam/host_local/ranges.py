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
    """Return the range of {subnet, rangeStart, rangeEnd, gateway}. Raises ValueError with the fault (H2)."""
    texts = [item.get(key) for key in ("subnet", "rangeStart", "rangeEnd", "gateway")]
    for key, text in zip(("subnet", "rangeStart", "rangeEnd", "gateway"), texts, strict=True):
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{key} is not a string")
    subnet, start, end, gateway = [text if isinstance(text, str) else "" for text in texts]
    if not subnet:
        raise ValueError("subnet is missing")
    (bits, first), prefix = parse_cidr(subnet)
    if prefix > bits - 2:
        raise ValueError(f"subnet {subnet} is too small to allocate from")
    last = first | (1 << bits - prefix) - 1
    network = last + 1 - (1 << bits - prefix)
    if first != network:
        raise ValueError(f"subnet {subnet} has host bits set: the network is {render_cidr((bits, network), prefix)}")
    lowest = _parse_bound("rangeStart", start, subnet, bits, network, last) if start else network + 1
    highest = _parse_bound("rangeEnd", end, subnet, bits, network, last) if end else last - (bits == IPV4)
    if lowest > highest:
        texts = [render_address((bits, number)) for number in (lowest, highest)]
        raise ValueError(f"the range starts at {texts[0]}, after its end {texts[1]}")
    return Range(
        bits=bits,
        prefix=prefix,
        start=lowest,
        end=highest,
        gateway=parse_address(gateway) if gateway else (bits, network + 1),
        pool=(lowest, highest) if start or end else (network, last),
    )


def _parse_bound(key: str, text: str, subnet: str, bits: int, network: int, last: int) -> int:
    family, number = parse_address(text)
    if family != bits or not network <= number <= last:
        raise ValueError(f"{key} {text} is not in the subnet {subnet}")
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
