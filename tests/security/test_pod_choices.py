"""podMayChoose: what a pod may choose by its annotation; the rest is refused, and never reaches the IPAM plugin."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.cni import KNOWN_ARGS, run
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import InvalidConfiguration
from ib_sriov_cni.core.known_keys import KNOWN
from ib_sriov_cni.core.pod_choices import WORDS, restrict_choices
from ipam.protocol.request import Request, parse_request

PCI = "0000:3b:00.2"
GUID = "02:00:00:00:00:00:00:01"
# Where a pod's value comes from, the podMayChoose entry that allows it, and the configuration and CNI_ARGS with it.
SOURCES: list[tuple[str, str, dict[str, Any], str]] = [
    ("runtimeConfig.infinibandGUID", "guid", {"runtimeConfig": {"infinibandGUID": GUID}}, ""),
    ("args.cni.guid", "guid", {"args": {"cni": {"guid": GUID}}}, ""),
    ("CNI_ARGS guid", "guid", {}, f"guid={GUID}"),
    ("args.cni.pkey", "pkey", {"args": {"cni": {"pkey": "0x8001"}}}, ""),
    ("runtimeConfig.ips", "ips", {"runtimeConfig": {"ips": ["10.0.0.7"]}}, ""),
    ("args.cni.ips", "ips", {"args": {"cni": {"ips": ["10.0.0.7"]}}}, ""),
    ("CNI_ARGS IP", "ips", {}, "IP=10.0.0.7"),
    ("runtimeConfig.mac", "mac", {"runtimeConfig": {"mac": "02:00:00:00:00:01"}}, ""),
    ("args.cni.mac", "mac", {"args": {"cni": {"mac": "02:00:00:00:00:01"}}}, ""),
    ("CNI_ARGS MAC", "mac", {}, "MAC=02:00:00:00:00:01"),
]
EACH_SOURCE = pytest.mark.parametrize(("source", "word", "part", "args"), SOURCES, ids=[row[0] for row in SOURCES])


def environment(command: str, args: str, path: str = "/nowhere") -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "" if command == "DEL" else "/run/netns/x",
        "CNI_IFNAME": "net1",
        "CNI_PATH": path,
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p" + (f";{args}" if args else ""),
    }


def request(command: str, cni_args: str, /, **conf: Any) -> Request:
    document = {"cniVersion": "1.1.0", "name": "ib", "type": "ib-sriov", "deviceID": PCI, **conf}
    stdin = json.dumps(document).encode()
    return parse_request(environment(command, cni_args), stdin, known_args=KNOWN_ARGS, names=KNOWN)


def without(word: str) -> list[str]:
    return [other for other in WORDS if other != word]


@EACH_SOURCE
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_what_is_not_listed_is_refused(command: str, source: str, word: str, part: dict[str, Any], args: str) -> None:
    for allowed in ([], without(word)):
        with pytest.raises(InvalidConfiguration) as caught:
            parse_netconf(request(command, args, podMayChoose=allowed, **part))
        assert caught.value.code == 7
        assert caught.value.msg == f"network ib: {source} must be left out: podMayChoose does not list {word}"


@EACH_SOURCE
def test_what_is_listed_is_accepted(source: str, word: str, part: dict[str, Any], args: str) -> None:
    for choices in ({}, {"podMayChoose": None}, {"podMayChoose": [word]}, {"podMayChoose": list(WORDS)}):
        asked = request("ADD", args, **choices, **part)
        conf = parse_netconf(asked)
        assert word in conf.pod_may_choose
        if word == "guid":
            assert (str(conf.guid), conf.guid_source) == (GUID, source)
        if word == "pkey":
            assert conf.pkey == 0x8001
        assert restrict_choices(asked, []) is asked


@EACH_SOURCE
@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_a_release_ignores_it_everywhere(command: str, source: str, word: str, part: dict[str, Any], args: str) -> None:
    own = {"guid": "02:00:00:00:00:00:00:02", "pkey": "0x9001"}
    asked = request(command, args, podMayChoose=without(word), **own, **part)
    conf = parse_netconf(asked, lenient=True)
    assert (str(conf.guid), conf.pkey) == (own["guid"], 0x9001)
    restricted = restrict_choices(asked, [])
    plain = request(command, "", podMayChoose=without(word), **own)
    assert restricted.args == plain.args
    assert restricted.environ == plain.environ
    assert json.loads(restricted.stdin) == restricted.conf
    for holder in (restricted.conf.get("runtimeConfig"), restricted.conf.get("args")):
        assert holder in (None, {}, {"cni": {}})
    assert {**restricted.conf, "runtimeConfig": None, "args": None} == {
        **plain.conf,
        "runtimeConfig": None,
        "args": None,
    }


def test_the_pods_other_values_stay() -> None:
    asked = request(
        "DEL",
        f"guid={GUID};IP=10.0.0.7",
        podMayChoose=["ips"],
        runtimeConfig={"infinibandGUID": GUID, "deviceID": PCI, "ips": ["10.0.0.7"]},
        args={"cni": {"guid": GUID, "mellanox.infiniband.app": "configured"}, "x": 1},
    )
    restricted = restrict_choices(asked, [])
    assert restricted.conf["runtimeConfig"] == {"deviceID": PCI, "ips": ["10.0.0.7"]}
    assert restricted.conf["args"] == {"cni": {"mellanox.infiniband.app": "configured"}, "x": 1}
    assert restricted.environ["CNI_ARGS"] == "IgnoreUnknown=1;K8S_POD_NAME=p;IP=10.0.0.7"
    assert restricted.args == {"IgnoreUnknown": "1", "K8S_POD_NAME": "p", "IP": "10.0.0.7"}
    assert asked.conf["args"] != restricted.conf["args"], "the request itself stays as it was"


@pytest.mark.parametrize("key", ["IPS", "Ips", "ip\u017f", "PKEY", "p\u212aey", "Guid", "MAC"])
def test_other_spellings_which_go_reads_as_well(key: str) -> None:
    with pytest.raises(InvalidConfiguration, match=rf"args\.cni\.{key.casefold()} must be left out"):
        parse_netconf(request("ADD", "", podMayChoose=[], args={"cni": {key: ["10.0.0.7"]}}))


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_value_chooses_nothing(nothing: object) -> None:
    empty = {"infinibandGUID": nothing, "ips": nothing, "mac": nothing}
    args = {"guid": nothing, "pkey": nothing, "ips": nothing, "mac": nothing}
    asked = request("ADD", "guid=;IP=", podMayChoose=[], runtimeConfig=empty, args={"cni": args})
    faults: list[str] = []
    assert restrict_choices(asked, faults) is asked
    assert faults == []


def test_the_networks_own_values_are_nobodys_choice() -> None:
    conf = parse_netconf(request("ADD", "", podMayChoose=[], guid=GUID, pkey="0x8001"))
    assert (str(conf.guid), conf.pkey, conf.pod_may_choose) == (GUID, 0x8001, ())


def test_every_refusal_in_one_message() -> None:
    runtime = {"infinibandGUID": GUID, "mac": "x"}
    with pytest.raises(InvalidConfiguration) as caught:
        parse_netconf(request("ADD", "IP=10.0.0.7", podMayChoose=["pkey"], runtimeConfig=runtime, mtu=1))
    for words in ("runtimeConfig.infinibandGUID must", "runtimeConfig.mac must", "CNI_ARGS IP must", "mtu must"):
        assert words in caught.value.msg


@pytest.mark.parametrize(
    ("wrong", "got"),
    [("guid", "'guid'"), (True, "True"), ({"guid": True}, "{'guid': True}"), (["GUID"], "'GUID'"), ([1], "1"),
     (["ips", "vlan"], "'vlan'"), ([[]], "[]"), ([None], "None")],
)  # fmt: skip
def test_wrong_lists(wrong: object, got: str) -> None:
    expected = f"podMayChoose must be a list of words out of guid, pkey, ips, mac (got {got})"
    with pytest.raises(InvalidConfiguration) as caught:
        parse_netconf(request("ADD", "", podMayChoose=wrong))
    assert caught.value.msg == f"network ib: {expected}"
    assert parse_netconf(request("DEL", "", podMayChoose=wrong), lenient=True).name == "ib"


# ---- the whole program


def ask(command: str, args: str, conf: dict[str, Any], path: str = "/nowhere") -> tuple[int, dict[str, Any]]:
    out = io.BytesIO()
    status = run(
        {**environment(command, args, path), "PATH": os.environ["PATH"]}, io.BytesIO(json.dumps(conf).encode()), out
    )
    return status, json.loads(out.getvalue() or b"{}")


def network(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {"cniVersion": "1.1.0", "name": "ib", "type": "ib-sriov", "deviceID": PCI}
    return {**own, "stateDir": str(folder / "state"), "logFile": str(folder / "log"), **changes}


@EACH_SOURCE
def test_a_runtime_gets_code_7(source: str, word: str, part: dict[str, Any], args: str, tmp_path: Path) -> None:
    conf = network(tmp_path, podMayChoose=without(word), **part)
    for command in ("ADD", "CHECK"):
        status, document = ask(command, args, conf)
        assert (status, document["code"], document["details"]) == (1, 7, "nothing was changed")
        assert source in document["msg"]
    assert not (tmp_path / "state").exists()
    assert ask("DEL", args, conf) == (0, {})


@EACH_SOURCE
@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_an_executed_ipam_plugin_does_not_see_it(
    command: str, source: str, word: str, part: dict[str, Any], args: str, tmp_path: Path
) -> None:
    script = tmp_path / "my-ipam"
    script.write_text(f'#!/bin/sh\ncat >{tmp_path}/stdin; printf %s "$CNI_ARGS" >{tmp_path}/args\n')
    script.chmod(0o755)
    conf = network(tmp_path, ipam={"type": "my-ipam"}, **part, **{"cni.dev/valid-attachments": []})
    values = {"02:00:00:00:00:00:00:01", "10.0.0.7", "02:00:00:00:00:01", "0x8001"}
    for choices in ({"podMayChoose": without(word)}, {}):
        assert ask(command, args, {**conf, **choices}, str(tmp_path)) == (0, {})
        seen = (tmp_path / "stdin").read_text() + (tmp_path / "args").read_text()
        assert any(value in seen for value in values) is not bool(choices), source
        assert "K8S_POD_NAME=p" in seen
