"""IP addresses as integers, parsed and printed as Go does, because file names depend on the spelling (H5).

An address is a pair (bits, number): (32, n) for IPv4, (128, n) for IPv6. An IPv4-mapped IPv6 address becomes an IPv4
address, as in Go's net package.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

TYPE_CHECKING = False
if TYPE_CHECKING:
    Address = tuple[int, int]

IPV4 = 32
IPV6 = 128
_MAPPED = 0xFFFF


def parse_address(text: str) -> Address:
    """Return the address. Raises ValueError if `text` is not one."""
    try:
        if ":" not in text:
            return IPV4, int.from_bytes(inet_pton(AF_INET, text), "big")
        number = int.from_bytes(inet_pton(AF_INET6, text), "big")
    except (OSError, ValueError):
        raise ValueError(f"{text[:80]!r} is not an IP address") from None
    if number >> 32 == _MAPPED:
        return IPV4, number & 0xFFFFFFFF
    return IPV6, number


def render_address(address: Address) -> str:
    """Return the address as text, in Go's spelling."""
    bits, number = address
    if bits == IPV4:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    if number >> 32 == 0:  # the C library prints the last four bytes as IPv4
        high, low = number >> 16, number & 0xFFFF
        return f"::{high:x}:{low:x}" if high else f"::{low:x}" if low else "::"
    return inet_ntop(AF_INET6, number.to_bytes(16, "big"))


def parse_cidr(text: str) -> tuple[Address, int]:
    """Return address (host bits kept) and prefix length of text like "10.1.2.3/24". Raises ValueError."""
    plain, slash, length = text.partition("/")
    if not slash:
        raise ValueError(f"{text[:80]!r} has no prefix length")
    bits, number = parse_address(plain)
    widest = IPV6 if ":" in plain else IPV4
    if not (length.isascii() and length.isdigit() and len(length) < 8 and int(length) <= widest):
        raise ValueError(f"{text[:80]!r}: the prefix length must be between 0 and {widest}")
    prefix = int(length) - (widest - bits)  # an IPv4-mapped address keeps only its last 32 bits
    if prefix < 0:
        raise ValueError(f"{text[:80]!r}: the prefix length of an IPv4-mapped address must be at least 96")
    return (bits, number), prefix


def render_cidr(address: Address, prefix: int) -> str:
    """Return text like "10.1.2.3/24"."""
    return f"{render_address(address)}/{prefix}"


def canonical_address(text: str) -> str:
    """Return an address in its canonical spelling, which comparisons need. Raises ValueError."""
    return render_address(parse_address(text))


def canonical_cidr(text: str) -> str:
    """Return address and prefix length in the canonical spelling. Raises ValueError."""
    return render_cidr(*parse_cidr(text))
