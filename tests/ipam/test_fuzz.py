"""Whatever is in the configuration or folder, the answer follows the protocol: never an internal error (C4, C5)."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ipam.calls import ask, environment, here

WORDS = st.sampled_from(
    ["10.0.0.0/29", "10.0.0.1", "10.0.0.3/24", "fd00::/125", "fd00::2", "0.0.0.0/0", "::/0", "", "x", "1.1.1.1/99",
     "/nowhere", "a\0b", "\u0661", "::ffff:10.0.0.2", "10.0.0.8/29"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-2, 300) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
KEYS = st.sampled_from(
    ["subnet", "rangeStart", "rangeEnd", "gateway", "dst", "gw", "mtu", "table", "flannel", "index", "indexFile",
     "count", "ips", "ipRanges", "cni", "containerID", "ifname", "address", "interface", "name", "ips", "routes", "dns"]
)  # fmt: skip
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
RANGE = st.fixed_dictionaries(
    {"subnet": WORDS | JUNK}, optional=dict.fromkeys(("rangeStart", "rangeEnd", "gateway"), WORDS)
)
IPAM = st.fixed_dictionaries(
    {},
    optional={
        "ranges": st.lists(st.lists(RANGE, max_size=2), max_size=3) | JUNK,
        "subnet": WORDS | JUNK,
        "routes": JUNK,
        "resolvConf": JUNK,
        "slices": JUNK,
        "rangeStart": JUNK,
    },
)
CONF = st.fixed_dictionaries(
    {"ipam": IPAM},
    optional=dict.fromkeys(
        ("args", "runtimeConfig", "prevResult", "lockTimeout", "cni.dev/valid-attachments", "dns", "type"), JUNK
    ),
)
COMMANDS = st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"])
CODES = {1, 4, 6, 7, 11, 50, 104, 106, None}


@given(
    conf=CONF,
    commands=st.lists(COMMANDS, min_size=1, max_size=4),
    args=st.sampled_from(["", "IP=10.0.0.2", "IP=x", ";"]),
)
@settings(max_examples=300, deadline=None)
def test_any_configuration_gets_an_answer(conf: dict[str, Any], commands: list[str], args: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        conf = {"cniVersion": "1.1.0", "name": "net", **conf}
        conf["ipam"] = {**conf["ipam"], "dataDir": folder}
        for command in commands:
            answer = ask(command, conf, args=args)
            assert answer.code in CODES
            assert answer.status == (answer.code is not None)


@given(conf=JUNK, command=COMMANDS)
@settings(max_examples=100, deadline=None)
def test_any_document_gets_an_answer(conf: object, command: str) -> None:
    answer = here(conf, environment(command))
    assert answer.code in {1, 6, 7}


NAMES = st.sampled_from(
    [
        "10.0.0.2",
        "10.0.0.3",
        "fd00::2",
        "last_reserved_ip.0",
        "last_reserved_ip.1",
        ".ib-host-local.new",
        "notes",
        "10.0.0.300",
    ]
)
CONTENTS = st.binary(max_size=20) | st.sampled_from(
    [b"c\r\neth0", b"c", b"c\r\n", b"10.0.0.2", b"\0" * 30, b"c\n\r\neth0"]
)


@given(files=st.dictionaries(NAMES, CONTENTS | st.none()), commands=st.lists(COMMANDS, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_content_of_the_folder_is_lived_with(files: dict[str, bytes | None], commands: list[str]) -> None:
    """None creates a folder with that name."""
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "net")
        os.mkdir(place)
        for name, content in files.items():
            if content is None:
                os.mkdir(os.path.join(place, name))
                continue
            with open(os.path.join(place, name), "wb") as file:
                file.write(content)
        ipam = {"dataDir": folder, "ranges": [[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]}
        conf = {"cniVersion": "1.1.0", "name": "net", "ipam": ipam, "cni.dev/valid-attachments": []}
        for command in commands:
            answer = ask(command, conf)
            assert answer.code in {104, 106, None}
        for _ in range(2):  # its own lease first, then that of an old version
            assert ask("DEL", conf).status == 0
        assert ask("CHECK", conf).code == 104
