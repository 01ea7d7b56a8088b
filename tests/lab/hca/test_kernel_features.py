"""What the running kernel can do, compared with the table in docs/kernels.md.

Each row of the table is one probe here; of its columns, the newest counts that is not newer than the kernel.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.commands import complaint, rdma_names, read_json, run, wait
from tests.lab.emulated_hca import Hca
from tests.lab.hca.conftest import MakeHca, MakePod

PAGE = Path(__file__).resolve().parents[3] / "docs/kernels.md"
SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
Probe = Callable[[Hca, MakePod], object]


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def read_table() -> dict[str, str]:
    """What the page says of the running kernel, by row."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and line.count(" | ") > 2]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    kernels = rows[0][1:]
    fitting = [name for name in kernels if version(name) <= version(os.uname().release)]
    column = 1 + kernels.index(max(fitting, key=version))
    return {row[0]: row[column] for row in rows[1:]}


def has_cookie(_hca: Hca, _pods: MakePod) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            return bool(one.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
        except OSError:
            return False


def has_parent(netdev: str) -> bool:
    return "parentdev" in read_json(["ip", "-d", "-j", "link", "show", "dev", netdev])[0]


def child_has_parent(hca: Hca, _pods: MakePod) -> bool:
    run(["ip", "link", "add", "link", hca.netdev(0), "name", "child0", "type", "ipoib", "pkey", "0x8001"])
    return has_parent("child0")


def can_rename_while_up(hca: Hca, _pods: MakePod) -> bool:
    run(["ip", "link", "set", "dev", hca.netdev(0), "up"])
    return not complaint(["ip", "link", "set", "dev", hca.netdev(0), "name", "other0"])


def has_altnames(hca: Hca, _pods: MakePod) -> bool:
    return not complaint(["ip", "link", "property", "add", "dev", hca.netdev(0), "altname", "other0"])


def reports_guids(hca: Hca, _pods: MakePod) -> bool:
    guid = "02:11:22:33:44:55:66:77"
    run(["ip", "link", "set", "dev", hca.pf_netdev, "vf", "0", "port_guid", guid])
    return guid in run(["ip", "link", "show", "dev", hca.pf_netdev]).stdout


def names_ipoib(hca: Hca, _pods: MakePod) -> bool:
    users = read_json(["rdma", "-j", "resource", "show", "pd", "dev", str(hca.rdma(0))])
    return any("ib_ipoib" in str(each.get("comm")) for each in users)


def reports_probe(hca: Hca, _pods: MakePod) -> bool:
    hca.knob("fail_probe", 1)
    hca.knob("fail_probes", -1)
    hca.unbind(0)
    return hca.bind(0) == "EIO"


def netdev_returns(hca: Hca, pods: MakePod) -> bool:
    pod = pods("a")
    run(["ip", "link", "set", "dev", hca.netdev(0), "netns", pod.name])
    pod.delete()
    return bool(wait(lambda: hca.netdevs(0)))


def rdma_moves(hca: Hca, pods: MakePod) -> bool:
    pod = pods("a")
    return hca.move_rdma(0, pod.name) in pod.rdma()


def rdma_returns(hca: Hca, pods: MakePod) -> bool:
    pod = pods("a")
    name = hca.move_rdma(0, pod.name)
    pod.delete()
    return bool(wait(lambda: name in rdma_names()))


def new_netdev(hca: Hca, pods: MakePod) -> str:
    hca.move_rdma(0, pods("a").name)
    return "the host" if hca.netdevs(0) else "the pod"


def names_are_unique(hca: Hca, pods: MakePod) -> str:
    name = hca.move_rdma(0, pods("a").name)
    refused = complaint(["rdma", "dev", "set", str(hca.rdma(1)), "name", name])
    return "the system" if refused else "a namespace"


SHARED: dict[str, Probe] = {
    "A network namespace has a cookie (SO_NETNS_COOKIE)": has_cookie,
    "A netdev's link attributes name its PCI device": lambda hca, _pods: has_parent(hca.netdev(0)),
    "So do those of P_Key children made by netlink": child_has_parent,
    "A netdev can have alternative names": has_altnames,
    "A netdev can be renamed while it is up": can_rename_while_up,
    "A netdev returns to the host when its namespace ends": netdev_returns,
    "An RDMA device can be renamed": lambda hca, _pods: (
        not complaint(["rdma", "dev", "set", str(hca.rdma(0)), "name", "other0"])
    ),
    "The reason of a failed probe is that of the bind (otherwise: no such device)": reports_probe,
    "IPoIB is named among the users of an RDMA device": names_ipoib,
    "The PF reports the GUIDs that were set for its VFs": reports_guids,
}
EXCLUSIVE: dict[str, Probe] = {
    "An RDMA device can be moved to a network namespace": rdma_moves,
    "An RDMA device returns to the host when its namespace ends": rdma_returns,
    "The new netdev of a moved RDMA device appears in": new_netdev,
    "Names of RDMA devices are unique in": names_are_unique,
}


def check(row: str, probe: Probe, hca: Hca, pods: MakePod) -> None:
    found = probe(hca, pods)
    words = found if isinstance(found, str) else "yes" if found else "no"
    assert words == read_table()[row], f"{row} on Linux {os.uname().release}"


@pytest.mark.parametrize("row", SHARED)
def test_feature(row: str, hca: Hca, pods: MakePod) -> None:
    check(row, SHARED[row], hca, pods)


@pytest.mark.parametrize("row", EXCLUSIVE)
def test_feature_in_exclusive_mode(row: str, make_hca: MakeHca, pods: MakePod) -> None:
    check(row, EXCLUSIVE[row], make_hca(mode="exclusive", preset=True), pods)


def test_each_row_has_a_probe() -> None:
    assert set(read_table()) == {*SHARED, *EXCLUSIVE}
