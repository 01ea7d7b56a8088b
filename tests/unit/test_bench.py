"""tests/bench: how measurements are counted, summarized and drawn; `make bench` takes them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.bench import calls, measure, report

STRACE = """
openat(AT_FDCWD</>, "/sys/bus/pci/devices/0001:00:00.2/net", O_RDONLY|O_CLOEXEC) = 9</sys/devices/pci0001:00/net>
read(9</sys/devices/pci0001:00/net>, "2\\n", 4096) = 2
openat(AT_FDCWD</>, "/sys/bus/pci/devices/0001:00:00.2/net", O_RDONLY|O_CLOEXEC) = 9</sys/devices/pci0001:00/net>
openat(AT_FDCWD</>, "/usr/lib/python3.11/os.py", O_RDONLY|O_CLOEXEC) = 3</usr/lib/python3.11/os.py>
socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 5<NETLINK:[1303]>
sendto(5<NETLINK:[1303]>, [{nlmsg_len=24, nlmsg_type=0x16, nlmsg_flags=NLM_F_REQUEST|0x300, nlmsg_seq=8}, ""], 24) = 24
sendto(5<NETLINK:[1303]>, [{nlmsg_len=24, nlmsg_type=0x12, nlmsg_flags=NLM_F_REQUEST, nlmsg_seq=9}, ""], 24) = 24
fsync(10</var/lib/cni/ib-sriov/attachments/ibnet>) = 0
rename("/var/lib/cni/ib-sriov/a.new", "/var/lib/cni/ib-sriov/a") = 0
mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7f
clone(child_stack=NULL, flags=SIGCHLD) = 252
--- SIGCHLD {si_signo=SIGCHLD} ---
+++ exited with 0 +++
"""


def test_system_calls_are_told_apart() -> None:
    found = calls.count(STRACE)
    wanted = {"all": 11, "sysfs": 3, "import": 1, "netlink": 2, "dumps": 1, "fsync": 1, "state": 1, "memory": 1}
    assert {kind: found[kind] for kind in wanted} == wanted
    assert (found["fork"], found["exec"], found["other"]) == (1, 0, 1)
    assert found["twice /sys/bus/pci/devices/0001:00:00.2/net"] == 2
    table = calls.table([calls.row("ADD", found)])
    assert "| ADD | 11 | 1 |" in table
    assert "Opened more than once in one call: /sys/bus/pci/devices/VF/net (ADD)." in table


def test_paths_in_general() -> None:
    assert calls.general("/state/attachments/ib/0123ab:net1.json") == "/state/attachments/ib/ATTACHMENT.json"
    assert calls.general("/sys/class/infiniband_verbs/uverbs12/ibdev") == "/sys/class/infiniband_verbs/uverbsN/ibdev"


def rows() -> list[dict[str, Any]]:
    return [
        {"case": "ADD", "program": "Go", "wall": [10.0, 20.0, 30.0], "cpu": [5.0, 5.0, 9.0], "peak": 4.0},
        {"case": "ADD", "program": "source", "wall": [50.0, 30.0, 40.0], "cpu": [10.0, 15.0, 20.0], "peak": 0.0},
        {"case": "rebind", "program": "kernel", "wall": [7.0], "cpu": [0.0], "peak": 0.0},
    ]


def test_medians_and_ratios() -> None:
    lines = measure.render(rows()).splitlines()
    assert lines[2:] == [
        "| ADD | Go | 20.0 |  | 5.0 |  | 4.0 | 3 |",
        "| ADD | source | 40.0 | 2.00 | 15.0 | 3.00 |  | 3 |",
        "| rebind | kernel | 7.0 |  | 0.0 |  |  | 1 |",
    ]


def case(name: str, program: str, wall: float, peak: float = 0.0) -> dict[str, Any]:
    return {"case": name, "program": program, "wall": [wall], "cpu": [1.0], "peak": peak}


def test_aims_are_compared() -> None:
    lab = [case("VERSION", "Go", 2.0), case("ADD", "Go", 20.0, 4.0), case("DEL", "Go", 10.0)]
    lab += [case("VERSION", "packed", 8.0), case("ADD", "packed", 30.0, 17.0), case("DEL", "packed", 9.0)]
    lab += [case("rebind alone", "kernel", 100.0), case("ADD, new GUID", "packed", 132.0)]
    host = [case("VERSION", "Go", 1.0), case("VERSION", "packed", 3.0)]
    host += [case("ADD, refused", name, 5.0) for name in ("Go", "packed")]
    lines = report.aims(lab, host).splitlines()
    assert lines[2:] == [
        "| VERSION, times Go's | packed | 0.1 | 4.00 | 3.00 |",
        "| ADD and DEL, times Go's | packed | 1.1 | 1.30 |  |",
        "| ADD with a new GUID, times Go's ADD and the rebind | packed | 1.2 | 1.10 |  |",
        "| memory of an ADD, MiB | packed | 12 | 17.00 |  |",
        "| a refused ADD, times Go's processor time | packed | 2.5 |  | 1.00 |",
    ]


def texts(picture: str) -> set[str]:
    """Return the texts of an SVG, which must be well-formed."""
    return {each.text for each in ET.fromstring(picture).iter() if each.text}  # noqa: S314  # our own


def test_charts_are_drawn() -> None:
    wanted = {"a <title>", "ADD", "20.0 Go", "40.0 source", "7.0 kernel"}
    assert wanted <= texts(report.bar_chart(rows(), "a <title>"))


def test_a_timeline_is_drawn() -> None:
    events = [
        {"name": "process_name", "ph": "M", "pid": 7, "args": {"name": "ADD net1 c1"}},
        {"name": "ADD", "ph": "X", "pid": 7, "ts": 1000.0, "dur": 9000.0, "args": {}},
        {"name": "bind", "ph": "X", "pid": 7, "ts": 2000.0, "dur": 1500.0, "args": {}},
        {"name": "process_name", "ph": "M", "pid": 8, "args": {"name": "the child of 7"}},
        {"name": "verify", "ph": "X", "pid": 8, "ts": 3000.0, "dur": 500.0, "args": {}},
    ]
    wanted = {"one ADD, 9 ms", "bind", "1.5", "the child that verifies", "verify", "0.5"}
    assert wanted <= texts(report.timeline(events))


def test_a_part_of_the_page_is_replaced() -> None:
    page = "a\n<!-- bench lab -->\nold\n<!-- /bench lab -->\nb\n"
    assert report.place(page, "bench lab", "new") == "a\n<!-- bench lab -->\nnew\n<!-- /bench lab -->\nb\n"
    with pytest.raises(SystemExit, match="has no"):
        report.place(page, "bench other", "new")


def test_rounds_end_in_time_but_not_too_early() -> None:
    done: list[int] = []
    assert measure.rounds(9, 0.0, done.append, least=3) == 3
    assert measure.rounds(2, 1000.0, done.append) == 2
    assert done == [0, 1, 2, 0, 1]
