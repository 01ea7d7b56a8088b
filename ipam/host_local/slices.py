"""Slices: each node allocates from its own part of a cluster-wide subnet, so no address is given twice (H8).

In the ipam section, one of::

    "slices": {"flannel": "/run/flannel/subnet.env", "count": 64}    or true for this path; count is optional
    "slices": {"indexFile": "/etc/ib-sriov/node-index", "count": 16}
    "slices": {"index": 3, "count": 16}

Each range is cut into `count` slices of equal size. Interfaces keep the prefix length of the whole subnet.
"""

from __future__ import annotations

from ipam.protocol.address import parse_cidr, render_address, render_cidr
from ipam.protocol.errors import InvalidConfiguration, TryAgainLater
from ipam.protocol.value import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ipam.host_local.ranges import Range, RangeSet

SUBNET_ENV = "/run/flannel/subnet.env"
SMALL = 3  # parts of up to so many addresses are given out whole
_SOURCES = ("flannel", "indexFile", "index")


class SliceSource(Value):
    """Where this node's index comes from: the file `path` (`kind` flannel or indexFile) or `index` itself."""

    kind: str
    path: str = ""
    index: int = 0
    count: int | None = None


class Slice(Value):
    """Slice `index` (from 0) of `count`; `origin` says where the index comes from, for messages."""

    index: int
    count: int
    origin: str


def parse_slices(item: object, faults: list[str]) -> SliceSource | None:
    """Return where the slice of an ipam section's `slices` comes from; None after adding a fault to `faults`."""
    if not isinstance(item, dict):
        faults.append("ipam.slices is not an object")
        return None
    given = [key for key in _SOURCES if item.get(key) is not None]
    if len(given) != 1:
        faults.append(
            f"ipam.slices must have exactly one of {', '.join(_SOURCES)} (got {' and '.join(given) or 'none'})"
        )
        return None
    kind, count = given[0], item.get("count")
    if (count is None and kind != "flannel") or (count is not None and not _is_integer(count, 1)):
        faults.append("ipam.slices.count must be an integer of 1 or more")
        return None
    if kind == "index":
        if not _is_integer(item["index"], 0):
            faults.append("ipam.slices.index must be an integer of 0 or more")
            return None
        return SliceSource(kind=kind, index=item["index"], count=count)
    path = SUBNET_ENV if kind == "flannel" and item[kind] is True else item[kind]
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        faults.append(f"ipam.slices.{kind} must be {'true or ' * (kind == 'flannel')}an absolute path")
        return None
    return SliceSource(kind=kind, path=path, count=count)


def _is_integer(number: object, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


def find_slice(source: SliceSource, read: Callable[[str], str]) -> Slice:
    """Return this node's slice; `read` returns the text of a file.

    Raises TryAgainLater (11), which names the file, if it is missing or incomplete; InvalidConfiguration (7) if the
    index is not below the number of slices.
    """
    if source.kind == "index":
        return _check_slice(source.index, source.count or 0, "ipam.slices.index")
    try:
        text = read(source.path)
        if source.kind == "flannel":
            index, count = parse_flannel(text)
        else:
            index, count = parse_index(text), 0
    except OSError as error:
        raise _unreadable(source, error.strerror or str(error)) from None
    except ValueError as error:
        raise _unreadable(source, str(error)) from None
    return _check_slice(index, source.count or count, source.path)


def _unreadable(source: SliceSource, reason: str) -> TryAgainLater:
    hint = (
        "flanneld writes this file when it starts"
        if source.kind == "flannel"
        else "write this node's index to this file; the node agent does so with --cluster-cidr"
    )
    return TryAgainLater(f"this node's slice is unknown: {source.path}: {reason}", hint)


def _check_slice(index: int, count: int, origin: str) -> Slice:
    if index >= count:
        raise InvalidConfiguration(
            f"this node has index {index} ({origin}), but there are only {count} slices, 0 to {count - 1}",
            "set ipam.slices.count to the largest number of nodes; it must be the same on all nodes",
        )
    return Slice(index=index, count=count, origin=origin)


def parse_index(text: str) -> int:
    """Return the number in an index file. Raises ValueError if it has none."""
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise ValueError(f"{digits[:40]!r} is not an index (expected an integer of 0 or more)")
    return int(digits)


def parse_flannel(text: str) -> tuple[int, int]:
    """Return (index, count) from the text of subnet.env: which of the network's subnets this node has (N7).

    Raises ValueError for text that is not a complete subnet.env.
    """
    entries = dict([line.strip().split("=", 1) for line in text.splitlines() if "=" in line])
    for family in ("", "IPV6_"):
        names = (f"FLANNEL_{family}NETWORK", f"FLANNEL_{family}SUBNET")
        if names[0] in entries and names[1] in entries:
            return number_subnet(names, entries[names[0]], entries[names[1]])
    raise ValueError("FLANNEL_NETWORK and FLANNEL_SUBNET must both be set")


def number_subnet(names: tuple[str, str], network: str, subnet: str) -> tuple[int, int]:
    """Return which of the network's subnets this one is, from 0, and how many of its size there are.

    Raises ValueError, which calls them by `names`, if one is not a CIDR or the subnet is not inside the network.
    """
    try:
        (bits, base), wide = parse_cidr(network)
        (family, number), narrow = parse_cidr(subnet)
    except ValueError as error:
        raise ValueError(f"{names[0]}={network[:50]} {names[1]}={subnet[:50]}: {error}") from None
    if family != bits or narrow < wide or number >> bits - wide != base >> bits - wide:
        raise ValueError(f"{names[1]}={subnet} is not inside {names[0]}={network}")
    return (number >> bits - narrow) & (1 << narrow - wide) - 1, 1 << narrow - wide


def cut_sets(sets: tuple[RangeSet, ...], part: Slice) -> tuple[RangeSet, ...]:
    """Return the range sets with every range cut down to this node's slice. Errors as in cut_range()."""
    return tuple([tuple([cut_range(whole, part) for whole in range_set]) for range_set in sets])


def cut_range(whole: Range, part: Slice) -> Range:
    """Return one of `count` equal parts of a range's pool; a remainder is left unused.

    Where the pool is cut, an IPv4 part begins and ends inside the subnet. x.x.x.0 and x.x.x.255 are addresses of hosts
    there, but routers, filters and people take them for a network and its broadcast; so they are left out at the ends
    of a part, as the Go plugin leaves them out at those of a subnet. Raises InvalidConfiguration (7) if the part has no
    address to hand out.
    """
    first, last = whole.pool
    size = (last - first + 1) // part.count
    start = max(first + part.index * size, whole.start)
    end = min(first + (part.index + 1) * size - 1, whole.end)
    if whole.bits == 32 and end - start >= SMALL:
        start += start > whole.start and start & 0xFF == 0
        end -= end < whole.end and end & 0xFF == 0xFF
    only_gateway = start == end and whole.gateway == (whole.bits, start)
    if start > end or only_gateway:
        pool = f"{render_address((whole.bits, first))}-{render_address((whole.bits, last))}"
        raise InvalidConfiguration(
            f"slice {part.index} of {part.count} ({part.origin}) of {pool} has no usable address: "
            f"{last - first + 1} addresses make slices of {size}",
            f"use a subnet larger than {render_cidr((whole.bits, whole.pool[0]), whole.prefix)} "
            "or a smaller ipam.slices.count",
        )
    return replace(whole, start=start, end=end)
