"""ipam.protocol.request: the environment and standard input of a CNI call (C1 to C4, C6, C19)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ipam.protocol.errors import (
    CniError,
    DecodingFailure,
    IncompatibleVersion,
    InvalidConfiguration,
    InvalidEnvironment,
    UnknownContainer,
)
from ipam.protocol.request import Request, parse_request, version_at_least
from ipam.protocol.versions import VERSIONS

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/a",
    "CNI_IFNAME": "net1",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
    "OTHER": "kept",
}
CONF: dict[str, object] = {"cniVersion": "1.1.0", "name": "ib", "type": "ib-sriov"}
KNOWN = frozenset({"IP"})


def ask(conf: object = None, known: frozenset[str] = KNOWN, **environ: str | None) -> Request:
    env = {key: text for key, text in {**ENV, **environ}.items() if text is not None}
    stdin = conf if isinstance(conf, bytes) else json.dumps(CONF if conf is None else conf).encode()
    return parse_request(env, stdin, known_args=known)


def changed(**members: Any) -> dict[str, object]:
    return {**CONF, **members}


def test_a_request() -> None:
    request = ask(CNI_ARGS="IP=10.0.0.2;IgnoreUnknown=1;K8S_POD_NAME=x")
    assert (request.command, request.container_id, request.netns, request.ifname) == (
        "ADD",
        "c1",
        "/run/netns/a",
        "net1",
    )
    assert request.path == ("/opt/cni/bin", "/usr/lib/cni")
    assert request.args["IP"] == "10.0.0.2"
    assert (request.version, request.conf["name"]) == ("1.1.0", "ib")
    assert request.environ["OTHER"] == "kept"
    assert json.loads(request.stdin) == CONF


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", ["CNI_PATH"]),
    ],
)
def test_c1_c2_every_missing_variable_is_named(command: str, needed: list[str]) -> None:
    with pytest.raises(InvalidEnvironment) as caught:
        ask(CNI_COMMAND=command, CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None, CNI_PATH=None)
    named = [word.strip(",") for word in caught.value.msg.split() if word.startswith("CNI_")]
    assert named == needed
    for name in needed:
        environ: dict[str, Any] = {"CNI_COMMAND": command, name: None}
        with pytest.raises(InvalidEnvironment, match=name):
            ask(**environ)


def test_c1_what_is_not_needed_may_be_absent() -> None:
    assert ask(CNI_COMMAND="DEL", CNI_NETNS=None).netns == ""
    assert ask(CNI_COMMAND="DEL", CNI_NETNS="").netns == ""
    bare: dict[str, Any] = {"CNI_CONTAINERID": None, "CNI_NETNS": None, "CNI_IFNAME": None}
    assert ask(CNI_COMMAND="GC", **bare).container_id == ""
    assert ask(CNI_COMMAND="STATUS", CNI_PATH=None, **bare).path == ()
    assert ask(b"", CNI_COMMAND="VERSION", CNI_PATH=None, **bare).command == "VERSION"


@pytest.mark.parametrize("command", ["add", "PUT", "ADD "])
def test_c2_unknown_command(command: str) -> None:
    with pytest.raises(InvalidEnvironment, match=command.strip()):
        ask(CNI_COMMAND=command)


def test_c2_no_command() -> None:
    for absent in (None, ""):
        with pytest.raises(InvalidEnvironment, match="CNI_COMMAND"):
            ask(CNI_COMMAND=absent)


@pytest.mark.parametrize("container", ["-a", ".a", "_a", "a/b", "a b", "a\n", "ä", "a;b"])
def test_c3_container(container: str) -> None:
    with pytest.raises(InvalidEnvironment, match="CNI_CONTAINERID"):
        ask(CNI_CONTAINERID=container)


def test_c3_empty_container() -> None:
    with pytest.raises(UnknownContainer):
        ask(CNI_CONTAINERID="")


@pytest.mark.parametrize("ifname", ["a" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb", "a\u00a0b", "ä" * 8])
def test_c3_ifname(ifname: str) -> None:
    with pytest.raises(InvalidEnvironment, match="CNI_IFNAME"):
        ask(CNI_IFNAME=ifname)


def test_c3_limits_are_allowed() -> None:
    assert ask(CNI_IFNAME="a" * 15).ifname == "a" * 15
    assert ask(CNI_CONTAINERID="0_.-Z").container_id == "0_.-Z"
    assert ask(changed(name="a" * 255)).conf["name"] == "a" * 255


def test_c3_both_faults_in_one_message() -> None:
    with pytest.raises(InvalidEnvironment, match=r"CNI_CONTAINERID.*CNI_IFNAME"):
        ask(CNI_CONTAINERID="-", CNI_IFNAME="..")


@pytest.mark.parametrize("name", ["-a", "..", "a/b", "a\n", "", None, 5, "a" * 256])
def test_c3_network_name(name: object) -> None:
    with pytest.raises(InvalidConfiguration, match="name"):
        ask(changed(name=name))


@pytest.mark.parametrize(
    "stdin", [b"", b"{", b"[]", b"null", b'"x"', b"1", b"\xff", b"{}{}", b'{"name":"a","name":"b"}']
)
def test_c4_not_an_object(stdin: bytes) -> None:
    with pytest.raises(DecodingFailure):
        ask(stdin)


def test_c4_every_fault_is_listed() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        ask(changed(name="-", ipam=[], runtimeConfig="x", args=1, prevResult=True, dns=[], type=3))
    for key in ("name", "ipam", "runtimeConfig", "args", "prevResult", "dns", "type"):
        assert key in caught.value.msg
    with pytest.raises(InvalidConfiguration, match=r"args\.cni"):
        ask(changed(args={"cni": []}))


def test_c4_null_is_absent() -> None:
    assert ask(changed(ipam=None, runtimeConfig=None, args=None, prevResult=None)).conf["ipam"] is None


@pytest.mark.parametrize("version", VERSIONS)
def test_c6_supported(version: str) -> None:
    assert ask(changed(cniVersion=version)).version == version


def test_c6_absent_is_the_first() -> None:
    assert ask({"name": "a"}).version == ask(changed(cniVersion="")).version == "0.1.0"


@pytest.mark.parametrize("version", ["0.0.1", "1.2.0", "1.0", "2.0.0", "x", 1, ["1.0.0"], 0, False, []])
def test_c6_others_are_refused(version: object) -> None:
    with pytest.raises(IncompatibleVersion):
        ask(changed(cniVersion=version))


@pytest.mark.parametrize(("command", "first"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_c6_commands_have_a_first_version(command: str, first: str) -> None:
    for version in VERSIONS:
        if version_at_least(version, first):
            assert ask(changed(cniVersion=version), CNI_COMMAND=command).command == command
        else:
            with pytest.raises(IncompatibleVersion, match=command):
                ask(changed(cniVersion=version), CNI_COMMAND=command)


@pytest.mark.parametrize(
    "args", ["A=1", "IP", "IP=1;", ";", "IP=1=2", "IgnoreUnknown=yes", "IgnoreUnknown=0;A=1", "ip=1"]
)
def test_c19_cni_args_refused(args: str) -> None:
    with pytest.raises(InvalidEnvironment, match="CNI_ARGS"):
        ask(CNI_ARGS=args)


@pytest.mark.parametrize("flag", ["1", "true", "True"])
def test_c19_unknown_keys_may_be_ignored(flag: str) -> None:
    assert ask(CNI_ARGS=f"A=1;IgnoreUnknown={flag}").args["A"] == "1"
    assert ask(CNI_ARGS="").args == {}
    assert ask(CNI_ARGS="IP=").args == {"IP": ""}


def test_c13_args_never_keep_a_del_from_running() -> None:
    assert ask(CNI_COMMAND="DEL", CNI_ARGS="A=1;junk;IP=1.2.3.4").args == {"A": "1", "IP": "1.2.3.4"}


def test_codes_are_the_specifications() -> None:
    codes = {kind.__name__: kind.code for kind in CniError.__subclasses__()}
    expected = {
        "IncompatibleVersion": 1,
        "UnsupportedField": 2,
        "UnknownContainer": 3,
        "InvalidEnvironment": 4,
        "IoFailure": 5,
        "DecodingFailure": 6,
        "InvalidConfiguration": 7,
        "OwnNamespace": 8,
        "TryAgainLater": 11,
        "NotAvailable": 50,
        "LimitedConnectivity": 51,
        "InternalFault": 100,
        "AddressManagement": 104,
        "StateFailure": 106,
    }
    assert expected.items() <= codes.items()
