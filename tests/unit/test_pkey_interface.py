"""The names of a P_Key child's two netdevs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ib_sriov_cni.attach.pkey_interface import parent_name


@pytest.mark.parametrize(
    ("ifname", "parent"),
    [
        ("net1", "net1-ib"),
        ("n", "n-ib"),
        ("a-long-ifname15", "a-long-ifnam-ib"),
        ("abcdefghijkl-ib", "abcdefghijkl_ib"),
    ],
)
def test_the_second_name(ifname: str, parent: str) -> None:
    assert parent_name(ifname) == parent


@given(st.text(st.characters(codec="ascii", exclude_characters="/: \t\n"), min_size=1, max_size=15))
def test_the_second_name_is_another_and_short_enough(ifname: str) -> None:
    """IFNAMSIZ is 16, including the terminating zero byte."""
    assert parent_name(ifname) != ifname
    assert len(parent_name(ifname)) <= 15
