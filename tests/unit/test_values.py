"""ib_sriov_cni.core.values: GUIDs, PCI addresses, and what a netdev reports about itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ib_sriov_cni.core.values import ARPHRD_INFINIBAND, GUID_MAX, Guid, Link, PciAddress, normalize_pkey

GUIDS = st.integers(0, GUID_MAX).map(Guid)


@given(GUIDS)
def test_a_guid_is_read_back_from_each_of_its_forms(guid: Guid) -> None:
    digits = f"{guid:016x}"
    groups = ":".join([digits[i : i + 4] for i in range(0, 16, 4)])
    for text in (str(guid), str(guid).upper(), digits, f"0x{digits}", f"0X{digits.upper()}", groups, f" {guid}\n"):
        assert Guid.parse(text) == guid
        assert type(Guid.parse(text)) is Guid
    assert repr(guid) == f"Guid({guid})"
    assert len(str(guid)) == 23


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "::::::",
        "00:11:22:33:44:55:66",
        "00:11:22:33:44:55:66:77:88",
        "00:11:22:33:44:55:66:7",
        "00:11:22:33:44:55:66:7g",
        "00-11-22-33-44-55-66-77",
        "0011:2233:4455:667",
        "001122334455667",
        "00112233445566778",
        "+0:11:22:33:44:55:66:77",
        "0_1122334455667_",
        "00:11:22:33:44:55:66: 7",
        "\u0660\u0660:11:22:33:44:55:66:77",  # Arabic digits, which int() takes
    ],
)
def test_what_is_no_guid(text: str) -> None:
    with pytest.raises(ValueError, match="not a GUID"):
        Guid.parse(text)


@given(st.text(max_size=40))
def test_junk_is_no_guid_or_is_sixteen_digits(text: str) -> None:
    try:
        guid = Guid.parse(text)
    except ValueError:
        return
    assert f"{guid:016x}" == text.strip().lower().removeprefix("0x").replace(":", "")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("00:00:00:00:00:00:00:00", "no GUID"),
        ("ff:ff:ff:ff:ff:ff:ff:ff", "unassigned"),
        ("ff:00:00:00:00:00:00:01", "multicast"),
        ("fe:ff:ff:ff:ff:ff:ff:ff", ""),
        ("00:00:00:00:00:00:00:01", ""),
    ],
)
def test_a_guid_says_why_no_port_can_have_it(text: str, word: str) -> None:
    fault = Guid.parse(text).fault
    assert word in fault
    assert bool(word) == bool(fault)


@given(st.integers(0, 0xFFFF), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))
def test_a_pci_address_is_read_in_any_case(domain: int, bus: int, slot: int, function: int) -> None:
    text = f"{domain:04x}:{bus:02x}:{slot:02x}.{function}"
    assert PciAddress.parse(text) == text
    assert PciAddress.parse(text.upper()) == text


@pytest.mark.parametrize("text", ["10000:e1:00.0", "00010000:e1:00.0"])
def test_a_domain_of_more_than_four_digits_is_in_the_kernels_form(text: str) -> None:
    # VMD creates domains from 0x10000 up; the kernel prints %04x (pci_setup_device).
    assert PciAddress.parse(text) == "10000:e1:00.0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3b:00.2",
        "0000:3b:00",
        "0000:3b:00:2",
        "0000.3b:00:2",
        "0000:3b.00.2",
        "0000:3b:00.8",
        "0000:3b:20.0",
        "0000:3b:00.2 ",
        " 0000:3b:00.2",
        "0000:3b:00.2\n",
        "000:3b:00.2",
        "000000000:3b:00.2",
        "0000:3b:0.2",
        "0000:3g:00.2",
        "../../../etc",
        "0000:3b:00.2/../0000:3b:00.0",
        "mlx5_0",
        "\u0660\u0660\u0660\u0660:3b:00.2",
    ],
)
def test_what_is_no_pci_address(text: str) -> None:
    with pytest.raises(ValueError, match="not a PCI address"):
        PciAddress.parse(text)


@given(st.text(alphabet="0123456789abcdefABCDEF:./x ", max_size=16))
def test_junk_is_no_pci_address_or_a_plain_file_name(text: str) -> None:
    try:
        pci = PciAddress.parse(text)
    except ValueError:
        return
    assert "/" not in pci
    assert PciAddress.parse(pci) == pci


def link(*, kind: int = ARPHRD_INFINIBAND, address: bytes = bytes(range(20)), flags: int = 0) -> Link:
    return Link(
        index=7,
        name="ib0",
        kind=kind,
        flags=flags,
        mtu=2044,
        address=address,
        operstate="up",
        pci="",
        altnames=(),
    )


def test_the_port_guid_is_the_end_of_an_ipoib_address() -> None:
    assert str(link().port_guid) == "0c:0d:0e:0f:10:11:12:13"
    assert link().mac == "00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13"
    assert link(kind=1, address=bytes(6)).port_guid is None
    assert link(address=bytes(19)).port_guid is None


@pytest.mark.parametrize(("flags", "up"), [(0x1, True), (0x1043, True), (0x1002, False), (0, False)])
def test_up_is_the_administrative_flag(flags: int, up: bool) -> None:
    assert link(flags=flags).up is up


def test_membership_is_dropped_from_a_pkey() -> None:
    assert normalize_pkey(0xFFFF) == normalize_pkey(0x7FFF) == 0x7FFF
    assert normalize_pkey(0x8001) == 1
