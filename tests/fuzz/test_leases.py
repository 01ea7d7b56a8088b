"""Leases: any content of their folder, of its index, and of the files that a network names.

Calls end as the protocol says, a DEL always succeeds, and nothing is written outside dataDir.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ipam.host_local.resolvconf import parse_resolv_conf
from ipam.host_local.slices import parse_flannel, parse_index
from ipam.host_local.store import lease_address, parse_lease
from tests.fuzz.budget import TALLY, search
from tests.fuzz.calls import WATCH, assert_below
from tests.fuzz.corpus import damaged
from tests.ipam.calls import ask

CODES = {11, 50, 104, 106, None}  # busy, no address, IPAM, state
COMMANDS = ("ADD", "CHECK", "DEL", "GC", "STATUS")
CONTENTS = (
    b"c\r\neth0",
    b"c",
    b"c\r\n",
    b"",
    b"other\r\neth0",
    b"../../../../outside\r\neth0",
    b"/outside\r\neth0",
    b"a/b\r\nc",
    b"..\r\n",
    b"c:\r\neth0",
    b"c\r\neth0\r\neth1",
    b"\xff\xfe\r\n\xff",
    b"seal\r\n",
    b"x" * 5000 + b"\r\neth0",
    b"10.0.0.2",
    b"\0" * 30,
)
NAMES = st.sampled_from(
    (
        *[f"10.0.0.{number}" for number in range(8)],
        "fd00::2",
        "FD00::3",
        "fd00:0::4",
        "::ffff:10.0.0.2",
        "010.0.0.2",
        "10.0.0.300",
        "last_reserved_ip.0",
        "last_reserved_ip.1",
        "lock",
        ".ib-host-local.new",
        "notes",
    )
) | st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & {*name}).map(os.fsdecode)
INDEX_NAMES = st.sampled_from(("seal", "c:eth0", "c:", "other:eth0", "..", "x" * 200))
TARGETS = ("10.0.0.2", "10.0.0.2,10.0.0.3", "fd00::2", "nowhere", "../..", "../../outside", "/", ",", "x" * 3000)
# What is at a path: ("file", content), ("link", target), or another kind of file.
files = st.tuples(st.just("file"), st.sampled_from(CONTENTS) | damaged(st.sampled_from(CONTENTS)))
links = st.tuples(st.just("link"), st.sampled_from(TARGETS))
things = files | links | st.tuples(st.sampled_from(("folder", "fifo", "socket")), st.just(b""))


def put(path: Path, thing: tuple[str, Any]) -> None:
    """Create what a strategy has drawn; skip a name that cannot be created."""
    kind, content = thing
    try:
        if kind == "file":
            path.write_bytes(content)
        elif kind == "link":
            path.symlink_to(content)
        elif kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
    except OSError:
        pass


@search("leases")
@given(
    st.dictionaries(NAMES, things, max_size=8),
    st.dictionaries(INDEX_NAMES, links, max_size=4),
    st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=3),
    st.sampled_from((1, 2)),
)
@example({"10.0.0.2": ("file", b"../../../../outside\r\neth0")}, {}, ["ADD"], 1)
def test_folder(place: str, leases: dict[str, Any], index: dict[str, Any], commands: list[str], ranges: int) -> None:
    folder = Path(place, "data")
    shutil.rmtree(folder, ignore_errors=True)
    for inner, content in (("net", leases), (".ib-index/net", index)):
        (folder / inner).mkdir(parents=True)
        for name, thing in content.items():
            put(folder / inner / name, thing)
    sets = [[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd00::/125"}]][:ranges]
    conf = {"cniVersion": "1.1.0", "name": "net", "lockTimeout": 0, "ipam": {"dataDir": str(folder), "ranges": sets}}
    conf["cni.dev/valid-attachments"] = [{"containerID": "other", "ifname": "eth0"}]
    # The first DEL releases leases with its interface, the second those an old version wrote without one.
    for command in (*commands, "DEL", "DEL"):
        TALLY.add()
        with WATCH.watching():
            answer = ask(command, conf)
        assert answer.code in CODES, answer
        assert answer.status == (answer.code is not None)
        assert command != "DEL" or answer.status == 0, answer
        assert_below(str(folder))
    for path in (folder / "net").iterdir():
        if lease_address(path.name) and not path.is_symlink() and path.is_file():
            holder = parse_lease(path.read_bytes())
            assert not (holder and holder.container_id == "c" and holder.ifname in {"", "eth0"}), path
    assert ask("CHECK", conf).code in {104, 106}


RESOLV = b"# x\nnameserver 10.0.0.53\nnameserver fd00::53%eth0\nsearch a b\ndomain c\noptions ndots:5\nsortlist 1\n"
FLANNEL = b"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
texts = st.binary(max_size=100) | damaged(st.sampled_from((RESOLV, FLANNEL, b"3\n", b"", b"10.0.0.2")))


@search("lease files")
@given(texts, st.sampled_from(("resolvConf", "flannel", "indexFile")))
def test_files_that_a_network_names(place: str, content: bytes, key: str) -> None:
    path = Path(place, "file")
    path.write_bytes(content)
    extra: dict[str, Any] = {"resolvConf": str(path)} if key == "resolvConf" else {}
    if not extra:
        extra = {"slices": {key: str(path), "count": 4}}
    folder = Path(place, "data-of-files")
    conf = {"cniVersion": "1.1.0", "name": "net", "ipam": {"dataDir": str(folder), "subnet": "10.0.0.0/24", **extra}}
    for command in ("STATUS", "ADD", "DEL"):
        TALLY.add()
        with WATCH.watching():
            answer = ask(command, conf)
        assert answer.code in CODES | {7}, answer
        assert command != "DEL" or answer.status == 0, answer
        assert_below(str(folder))
    TALLY.add(4)
    text = content.decode(errors="replace")
    parse_resolv_conf(text)
    parse_lease(content)
    for parse in (parse_index, parse_flannel):
        try:
            parse(text)
        except ValueError:
            pass
