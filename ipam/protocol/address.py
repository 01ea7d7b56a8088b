"""Addresses as integers: text to value and back, as Go reads and prints them (file names depend on it, H5).

An address is a pair (bits, number): (32, n) for IPv4, (128, n) for IPv6. An IPv4-mapped IPv6 address is the
IPv4 address, as in Go's net package.
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
    """Give the address that `text` spells; ValueError if it spells none."""
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
    """Give the text of an address, in Go's spelling."""
    bits, number = address
    if bits == IPV4:
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    if number >> 32 == 0:  # the C library would print the last four bytes as IPv4
        high, low = number >> 16, number & 0xFFFF
        return f"::{high:x}:{low:x}" if high else f"::{low:x}" if low else "::"
    return inet_ntop(AF_INET6, number.to_bytes(16, "big"))


def parse_cidr(text: str) -> tuple[Address, int]:
    """Give address (host bits kept) and prefix length of "10.1.2.3/24"; ValueError if it is none."""
    plain, slash, length = text.partition("/")
    if not slash:
        raise ValueError(f"{text[:80]!r} has no prefix length")
    bits, number = parse_address(plain)
    widest = IPV6 if ":" in plain else IPV4
    if not (length.isascii() and length.isdigit() and len(length) < 8 and int(length) <= widest):
        raise ValueError(f"{text[:80]!r} has no prefix length of 0 to {widest}")
    prefix = int(length) - (widest - bits)  # of an IPv4-mapped address the last 32 bits count
    if prefix < 0:
        raise ValueError(f"{text[:80]!r}: the prefix of an IPv4-mapped address is shorter than 96 bits")
    return (bits, number), prefix


def render_cidr(address: Address, prefix: int) -> str:
    """Give "10.1.2.3/24"."""
    return f"{render_address(address)}/{prefix}"


def canonical_address(text: str) -> str:
    """Give an address in the spelling everything here compares by; ValueError if it is none."""
    return render_address(parse_address(text))


def canonical_cidr(text: str) -> str:
    """Give address and prefix in the spelling everything here compares by; ValueError if it is none."""
    return render_cidr(*parse_cidr(text))
