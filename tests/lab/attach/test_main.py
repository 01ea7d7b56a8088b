"""ADD, CHECK and DEL of one attachment: what the pod gets, and the host as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.rig import Rig, guid_of, rigs

MODES = ("shared", "exclusive")
# Where a pod's GUID comes from. It is derived where the VF has none.
ORIGINS = ("kept", "requested", "derived")
CASES = [((mode, origin != "derived"), origin) for origin in ORIGINS for mode in MODES]


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The parameter is the RDMA mode, and whether the VFs have GUIDs."""
    mode, preset = request.param
    yield from rigs(mode, preset=preset)


@pytest.mark.parametrize(
    ("loaded", "origin"), CASES, indirect=["loaded"], ids=[f"{origin}-{mode}" for origin in ORIGINS for mode in MODES]
)
def test_add_then_del_leaves_the_host_as_before(rig: Rig, origin: str) -> None:
    hca, pod = rig.hca, rig.pod()
    had = rig.before.facts[f"VF 0 ({hca.pci(0)}) port GUID"]
    guid = guid_of(1) if origin == "requested" else None
    result = rig.add(pod, guid=guid)
    (interface,) = result["interfaces"]
    assert interface["name"] == "net1"
    assert interface["pciID"] == hca.pci(0)
    assert interface["sandbox"] == pod.netns
    given = interface["mac"][-23:]
    if origin == "derived":
        assert given != had
    else:
        assert given == (guid or had)
    assert pod.addresses() == ["10.56.0.2/24"]
    link = pod.link()
    assert link is not None
    assert link["address"] == interface["mac"]
    assert "UP" in link["flags"]
    assert hca.netdevs(0) == []
    assert (hca.rdma(0) is None) is rig.exclusive
    check = rig.check(pod, result, guid=guid)
    assert (check.status, check.stdout) == (0, ""), check
    rig.delete(pod, guid=guid)
    pod.delete()
    rig.assert_as_before()


@pytest.mark.parametrize("loaded", [("exclusive", True)], indirect=True, ids=["exclusive"])
def test_without_isolation_in_exclusive_mode(rig: Rig) -> None:
    """The pod gets its interface; the RDMA device stays with the host, which alone sees it."""
    pod = rig.pod()
    result = rig.add(pod, guid=guid_of(1), rdmaIsolation=False)
    link = pod.link()
    assert link is not None
    assert link["address"].endswith(guid_of(1))
    assert pod.rdma() == []
    assert rig.hca.port_guid(0) == guid_of(1)
    check = rig.check(pod, result, guid=guid_of(1), rdmaIsolation=False)
    assert (check.status, check.stdout) == (0, ""), check
    rig.delete(pod, guid=guid_of(1), rdmaIsolation=False)
    rig.assert_as_before()
