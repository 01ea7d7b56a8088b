"""ipam.protocol.bounds: however large the input, the answer is one short error, quickly."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.cni import run
from ib_sriov_cni.core.comparison import address_differences
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import CniError, InvalidConfiguration, StateFailure
from ib_sriov_cni.core.fault_collector import FaultCollector
from ipam.host_local.config import parse_settings
from ipam.protocol.bounds import (
    FAULTS,
    FILE_BYTES,
    JSON_LEVELS,
    LIST_ITEMS,
    MESSAGE_BYTES,
    STDIN_BYTES,
    VALID_ATTACHMENTS,
    join_faults,
    shorten,
)
from ipam.protocol.errors import render_error
from ipam.protocol.request import Request, parse_args, parse_request
from ipam.protocol.result import Address, Result, parse_result
from tests.ipam.calls import ask

SECONDS = 2.0  # far more than needed, far less than a quadratic look-up takes


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS


def network(folder: Path, **changes: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "dataDir": str(folder), "subnet": "10.0.0.0/8"}
    return {"cniVersion": "1.1.0", "name": "net", "type": "ib-sriov", "ipam": ipam, **changes}


def request(conf: dict[str, Any], args: dict[str, str] | None = None) -> Request:
    return Request(command="ADD", container_id="c", ifname="i", args=args or {}, conf=conf, version="1.1.0", environ={})


def refusal(conf: dict[str, Any], args: dict[str, str] | None = None) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_settings(request(conf, args))
    return caught.value.msg


# ---- requested addresses


@pytest.mark.parametrize("place", ["args.cni.", "runtimeConfig."])
def test_sixty_thousand_empty_strings_are_one_short_fault(place: str, tmp_path: Path) -> None:
    ips = {"ips": [""] * 60_000}
    conf = network(tmp_path, **({"args": {"cni": ips}} if place == "args.cni." else {"runtimeConfig": ips}))
    answer = ask("ADD", conf)
    assert (answer.code, answer.msg) == (7, f"{place}ips must have at most {LIST_ITEMS} items (got 60000)")
    assert os.listdir(tmp_path) == []
    assert ask("DEL", conf).status == 0


def test_the_sources_of_requests_are_counted_together(tmp_path: Path) -> None:
    half = [f"10.0.{n // 250}.{n % 250}" for n in range(LIST_ITEMS // 2)]
    conf = network(tmp_path, args={"cni": {"ips": half}}, runtimeConfig={"ips": half})
    assert len(parse_settings(request(conf)).requested) == LIST_ITEMS // 2
    assert f"at most {LIST_ITEMS} addresses" in refusal(conf, {"IP": "10.0.0.1"})


def test_as_many_requests_as_are_accepted(tmp_path: Path) -> None:
    """All are in the only range set, which can serve just one: the error names some of the others."""
    conf = network(tmp_path, args={"cni": {"ips": [f"10.1.{n // 250}.{n % 250}" for n in range(LIST_ITEMS)]}})
    answer = ask("ADD", conf)
    assert answer.code == 104
    assert answer.msg.endswith(f"10.1.0.{FAULTS} and {LIST_ITEMS - 1 - FAULTS} more")


def test_of_many_faults_the_first_are_listed(tmp_path: Path) -> None:
    text = refusal(network(tmp_path, args={"cni": {"ips": ["x" * 1000] * LIST_ITEMS}}))
    assert text.count("is not an IP address") == FAULTS
    assert text.endswith(f"; and {LIST_ITEMS - FAULTS} more")
    assert len(text) < MESSAGE_BYTES


# ---- ranges, routes, results


def test_ranges_are_counted_over_all_sets(tmp_path: Path) -> None:
    ranges = [[{"subnet": f"10.{n // 250}.{n % 250}.0/24"}] for n in range(LIST_ITEMS + 1)]
    whole = network(tmp_path)
    most = {**whole, "ipam": {"ranges": ranges[:LIST_ITEMS]}}
    assert len(parse_settings(request(most)).sets) == LIST_ITEMS
    two_sets = [[item for (item,) in ranges[:600]], [item for (item,) in ranges[600:]]]
    text = refusal({**whole, "ipam": {"ranges": two_sets}})
    assert f"ipam.ranges and runtimeConfig.ipRanges must have at most {LIST_ITEMS} ranges (got 1001)" in text
    many = [[{"subnet": "10.0.0.0/8"}] * 30] * LIST_ITEMS
    assert "(got 30000)" in refusal({**whole, "ipam": {"ranges": many}})
    assert f"ipam.ranges must have at most {LIST_ITEMS} items" in refusal({**whole, "ipam": {"ranges": [[]] * 100_000}})


@pytest.mark.parametrize("in_one_set", [True, False])
def test_ranges_that_all_overlap(*, in_one_set: bool, tmp_path: Path) -> None:
    ranges = [{"subnet": "10.0.0.0/8"}] * LIST_ITEMS
    text = refusal({**network(tmp_path), "ipam": {"ranges": [ranges] if in_one_set else [[one] for one in ranges]}})
    assert "overlap" in text
    assert len(text) < MESSAGE_BYTES


@pytest.mark.parametrize("key", ["ips", "routes", "interfaces", "dns"])
def test_lists_of_a_result(key: str) -> None:
    items = [{"dst": "10.0.0.0/8", "address": "10.0.0.1/8", "name": "x"}] * (LIST_ITEMS + 1)
    doc = {"dns": {"nameservers": ["10.0.0.1"] * (LIST_ITEMS + 1)}} if key == "dns" else {key: items}
    with pytest.raises(InvalidConfiguration, match=rf"at most {LIST_ITEMS} items \(got {LIST_ITEMS + 1}\)"):
        parse_result(doc, "1.1.0")
    with pytest.raises(InvalidConfiguration, match=rf"prevResult .*at most {LIST_ITEMS} items"):
        parse_netconf(request({"name": "n", "deviceID": "0000:3b:00.2", "prevResult": doc}))
    conf = {"name": "n", "deviceID": "0000:3b:00.2", "prevResult": doc}
    assert parse_netconf(request(conf), lenient=True).prev_result is None


def test_a_pod_with_many_addresses() -> None:
    addresses = [f"10.{n // 250}.{n % 250}.1/32" for n in range(20_000)]
    wanted = Result(ips=tuple([Address(address=text, interface=0) for text in reversed(addresses)]))
    assert address_differences(wanted, 0, addresses, []) == []


def test_valid_attachments(tmp_path: Path) -> None:
    attachments = [{"containerID": "c", "ifname": "i"}] * VALID_ATTACHMENTS
    conf = network(tmp_path)
    assert ask("GC", {**conf, "cni.dev/valid-attachments": attachments}).status == 0
    answer = ask("GC", {**conf, "cni.dev/valid-attachments": [*attachments, attachments[0]]})
    assert (answer.code, answer.doc and answer.doc["details"]) == (7, "nothing was released")
    assert f"at most {VALID_ATTACHMENTS} attachments (got {VALID_ATTACHMENTS + 1})" in answer.msg


# ---- files that the configuration names


def test_files_that_are_too_large(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"nameserver 10.0.0.1\n" * (FILE_BYTES // 20 + 1))
    ipam = network(tmp_path)["ipam"]
    answer = ask("ADD", network(tmp_path / "data", ipam={**ipam, "resolvConf": str(tmp_path / "file")}))
    assert (answer.code, f"larger than {FILE_BYTES} bytes" in answer.msg) == (106, True)
    slices = {"indexFile": str(tmp_path / "file"), "count": 2}
    answer = ask("ADD", network(tmp_path / "data", ipam={**ipam, "slices": slices}))
    assert (answer.code, f"larger than {FILE_BYTES} bytes" in answer.msg) == (11, True)


def test_a_resolv_conf_with_more_than_a_result_may_have(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"nameserver 10.0.0.1\n" * (LIST_ITEMS + 1))
    conf = network(tmp_path / "data")
    conf["ipam"]["resolvConf"] = str(tmp_path / "file")
    answer = ask("ADD", conf)
    assert (answer.code, f"at most {LIST_ITEMS} nameservers" in answer.msg) == (106, True)


# ---- variables, documents, messages


def ask_plugin(conf: bytes, **environ: str) -> dict[str, Any]:
    out = io.BytesIO()
    variables = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/n",
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/nowhere",
    }
    assert run({**variables, **environ}, io.BytesIO(conf), out) == 1
    assert len(out.getvalue()) < 3 * MESSAGE_BYTES
    document: dict[str, Any] = json.loads(out.getvalue())
    return document


@pytest.mark.parametrize("args", [";" * 130_000, "a;" * 60_000, "=".join(["x"] * 60_000), "k" * 130_000 + "=1"])
def test_cni_args(args: str) -> None:
    document = ask_plugin(b'{"cniVersion":"1.1.0","name":"ib"}', CNI_ARGS=args)
    assert (document["code"], document["msg"][:10]) == (4, "CNI_ARGS: ")
    assert len(document["msg"]) < MESSAGE_BYTES


@pytest.mark.parametrize(
    ("conf", "code"),
    [
        (b"[" * STDIN_BYTES, 6),
        (b'{"a":' * (JSON_LEVELS + 1) + b"1" + b"}" * (JSON_LEVELS + 1), 6),
        (b'{"%b":1,"%b":1}' % (b"k" * 500_000, b"k" * 500_000), 6),
        (b'{"name":"%b"}' % (b"-" * 1_000_000), 7),
        (b'{"name":"ib","cniVersion":"%b"}' % (b"1" * 1_000_000), 1),
        (b'{"name":"ib","mtu":"%b","guid":"%b"}' % (b"m" * 500_000, b"g" * 500_000), 7),
        (b'{"name":"ib","podMayChoose":["%b"]}' % (b"m" * 1_000_000), 7),
        (b'{"name":"ib","ipam":{"type":"%b"},"deviceID":"0000:3b:00.2"}' % (b"t" * 1_000_000), 3),
    ],
)
def test_large_documents(conf: bytes, code: int) -> None:
    assert ask_plugin(conf)["code"] == code


def test_an_error_document_is_bounded() -> None:
    document = render_error(StateFailure("m" * 10_000_000, "ü" * 10_000_000), "1.1.0")
    for key, begin in (("msg", "mm"), ("details", "üü")):
        text = str(document[key])
        assert len(text.encode()) <= MESSAGE_BYTES
        assert text.startswith(begin)
        assert text.endswith("… (10000000 characters)")
    assert render_error(StateFailure("short", "text"), "1.1.0")["msg"] == "short"


def test_shortened_texts_are_text() -> None:
    for letter in "xü€😀\udcff\ud800":
        for length in (0, 1, 10, 20, 21, 25, 99, 100, 101, 5000):
            text = shorten(letter * length, 100)
            assert len(text.encode(errors="surrogatepass")) <= 100
            if length <= 25:
                assert text == letter * length


def test_joined_faults() -> None:
    assert join_faults([]) == ""
    assert join_faults(["a", "b"]) == "a; b"
    assert join_faults([str(n) for n in range(FAULTS)]) == "; ".join([str(n) for n in range(FAULTS)])
    assert join_faults(["x"] * (FAULTS + 2), ", ") == "x, " * FAULTS + "and 2 more"


def test_steps_that_all_fail() -> None:
    collector = FaultCollector()

    def fail() -> None:
        raise StateFailure("x" * 1000)

    for _ in range(5000):
        collector.attempt(fail)
    with pytest.raises(CniError) as caught:
        collector.raise_faults()
    assert caught.value.msg.endswith("; and 4990 more")


def test_arguments_that_are_all_unknown() -> None:
    with pytest.raises(CniError, match="and 59990 more"):
        parse_args(";".join([f"k{n}=1" for n in range(60_000)]), frozenset())


def test_a_configuration_with_every_fault_thousands_of_times() -> None:
    conf = {"cniVersion": "1.1.0", "name": "net", "ipam": {"type": "host-local", "routes": [{}] * LIST_ITEMS}}
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/n", "CNI_IFNAME": "i", "CNI_PATH": "/p"}
    asked = parse_request(environ, json.dumps(conf).encode(), known_args=frozenset())
    with pytest.raises(InvalidConfiguration, match=rf"routes\[0\]\.dst is missing.*; and {LIST_ITEMS - 9} more"):
        parse_settings(asked)
