"""ib_sriov_cni.kernel.rdma_verifier: how pyverbs' values are parsed; the queries are tested in tests/netns."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ib_sriov_cni.core.values import GUID_MAX, Guid
from ib_sriov_cni.kernel.rdma_verifier import node_guid


@given(st.integers(0, GUID_MAX).map(Guid))
def test_both_forms_of_a_node_guid(guid: Guid) -> None:
    # Up to rdma-core 44 pyverbs returns the raw __be64 as an integer, later versions the text ibv_devinfo prints.
    assert node_guid(int.from_bytes(guid.to_bytes(8, "big"), sys.byteorder)) == guid
    digits = f"{guid:016x}"
    assert node_guid(":".join([digits[i : i + 4] for i in range(0, 16, 4)])) == guid


def test_a_node_guid_that_is_none() -> None:
    with pytest.raises(ValueError, match="not a GUID"):
        node_guid("mlx5_3")
