"""ipam.protocol.address against ipaddress: same values and Go's spelling (H5: file names)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.protocol.address import IPV4, IPV6, parse_address, parse_cidr, render_address

V4 = st.integers(0, 2**32 - 1)
V6 = st.integers(0, 2**128 - 1) | st.integers(0, 2**34) | st.builds(lambda a, b: a << 64 | b, V4, V4)


@given(V4)
def test_ipv4(number: int) -> None:
    text = str(ipaddress.IPv4Address(number))
    assert parse_address(text) == (IPV4, number)
    assert render_address((IPV4, number)) == text


@given(V6)
def test_ipv6(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if address.ipv4_mapped:
        assert parse_address(str(address)) == (IPV4, number & 0xFFFFFFFF)
        return
    assert parse_address(address.exploded) == parse_address(str(address).upper()) == (IPV6, number)
    assert parse_address(render_address((IPV6, number))) == (IPV6, number)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("::1.2.3.4", "::102:304"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:a00:1", "10.0.0.1"),
        ("::", "::"),
        ("::1", "::1"),
        ("::1:0", "::1:0"),
        ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"),
        ("fe80:0:0:0:0:0:0:0", "fe80::"),
        ("::ffff:0:1.2.3.4", "::ffff:0:102:304"),
    ],
)
def test_spelling_is_gos(text: str, spelling: str) -> None:
    assert render_address(parse_address(text)) == spelling


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "1.2.3.256",
        "1.2.3.4 ",
        " 1.2.3.4",
        "1.2.3.4/24",
        "::g",
        ":::",
        "1::2::3",
        "fe80::1%eth0",
        "[::1]",
        "1:2:3:4:5:6:7",
        "1.2.3.4\x00",
        "1\u0662.0.0.1",
        "\udcff",
        "x" * 65536,
        "1::2:3:4:5:6:7:8",
    ],
)
def test_junk_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address"):
        parse_address(text)


def test_cidr_keeps_host_bits() -> None:
    assert parse_cidr("10.1.2.3/24") == ((IPV4, 0x0A010203), 24)
    assert parse_cidr("2001:db8::1/064") == ((IPV6, 0x20010DB8 << 96 | 1), 64)
    assert parse_cidr("::ffff:10.1.2.3/120") == ((IPV4, 0x0A010203), 24)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/-1",
        "10.0.0.0/+1",
        "10.0.0.0/1 ",
        "::/\u0661",
        "10.0.0.0/8/8",
        "/8",
        "::ffff:10.0.0.0/64",
        "10.0.0.0/" + "0" * 70000,
    ],
)
def test_junk_cidr_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_cidr(text)
