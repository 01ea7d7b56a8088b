"""ib_sriov_cni.core.configuration: parsing of a network configuration, all faults in one message (C4, C13, C19)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ib_sriov_cni.cni import KNOWN_ARGS
from ib_sriov_cni.core.configuration import NetConf, parse_netconf
from ib_sriov_cni.core.errors import InvalidConfiguration
from ib_sriov_cni.core.known_keys import KNOWN
from ib_sriov_cni.core.values import Guid
from ipam.protocol.bounds import FAULTS
from ipam.protocol.fastjson import loads
from ipam.protocol.request import Request, parse_request
from tests.ipam.calls import environment

PCI = "0000:3b:00.2"
GUIDS = [f"02:00:00:00:00:00:00:{n:02x}" for n in range(1, 5)]


def request(conf: dict[str, Any], *, command: str = "ADD", args: str = "") -> Request:
    stdin = json.dumps({"cniVersion": "1.1.0", "name": "ib", "type": "ib-sriov", **conf}).encode()
    return parse_request(environment(command, args=args), stdin, known_args=KNOWN_ARGS, names=KNOWN)


def parse(*, cni_args: str = "", **conf: Any) -> NetConf:
    return parse_netconf(request({"deviceID": PCI, **conf}, args=cni_args))


def refusal(**conf: Any) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        parse(**conf)
    assert caught.value.code == 7
    return caught.value.msg


def test_defaults() -> None:
    conf = parse()
    expected = NetConf(
        name="ib",
        device=conf.device,
        guid=None,
        guid_source="",
        link_state="",
        vfio_pci_mode=False,
        rdma_isolation=False,
        pkey=None,
        mtu=None,
        accept_ra=False,
        ib_kubernetes=False,
        ib_kubernetes_ready=False,
        pod_may_choose=("guid", "pkey", "ips", "mac"),
        ipam_type="",
        port_timeout=30.0,
        lock_timeout=60.0,
        log_level="info",
        log_file="",
        state_dir="",
        device_info_file="",
        pod="",
        prev_result=None,
    )
    assert conf == expected
    assert conf.device == PCI


def test_everything() -> None:
    conf = parse(
        cni_args="K8S_POD_NAMESPACE=train;K8S_POD_NAME=worker-0",
        guid=GUIDS[0],
        link_state="enable",
        rdmaIsolation=True,
        pkey="0x8001",
        mtu=2044,
        ibKubernetesEnabled=True,
        ipam={"type": "whereabouts"},
        portTimeout=0,
        lockTimeout=2.5,
        logLevel="debug",
        logFile="/var/log/ib.log",
        stateDir="/var/lib/x",
        runtimeConfig={"CNIDeviceInfoFile": "/run/x.json"},
        prevResult={"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}]},
        unknown={"is": "ignored"},
    )
    assert (conf.guid, conf.guid_source) == (Guid.parse(GUIDS[0]), "guid")
    assert (conf.link_state, conf.rdma_isolation, conf.pkey, conf.mtu) == ("enable", True, 0x8001, 2044)
    assert (conf.ib_kubernetes, conf.ib_kubernetes_ready, conf.ipam_type) == (True, False, "whereabouts")
    assert (conf.port_timeout, conf.lock_timeout) == (0.0, 2.5)
    assert (conf.log_level, conf.log_file, conf.state_dir) == ("debug", "/var/log/ib.log", "/var/lib/x")
    assert (conf.device_info_file, conf.pod) == ("/run/x.json", "train/worker-0")
    assert conf.prev_result is not None
    assert conf.prev_result.interfaces[0].name == "eth0"


# ---- where the values come from (C19, N1, N5)


def test_c19_the_four_sources_of_a_guid_in_their_order() -> None:
    sources: list[tuple[str, dict[str, Any], str]] = [
        ("runtimeConfig.infinibandGUID", {"runtimeConfig": {"infinibandGUID": GUIDS[0]}}, ""),
        ("args.cni.guid", {"args": {"cni": {"guid": GUIDS[1]}}}, ""),
        ("CNI_ARGS guid", {}, f"guid={GUIDS[2]}"),
        ("guid", {"guid": GUIDS[3]}, ""),
    ]
    for first, (name, _, _) in enumerate(sources):
        conf: dict[str, Any] = {}
        args = ""
        for _, part, text in sources[first:]:
            conf |= part
            args = args or text
        found = parse(cni_args=args, **conf)
        assert (str(found.guid), found.guid_source) == (GUIDS[first], name)


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_guid_is_none_and_the_next_source_counts(empty: str | None) -> None:
    conf = parse(runtimeConfig={"infinibandGUID": empty}, args={"cni": {"guid": empty}}, guid=GUIDS[3])
    assert conf.guid_source == "guid"


def test_a_wrong_guid_is_refused_although_a_later_source_is_right() -> None:
    text = refusal(runtimeConfig={"infinibandGUID": "x"}, guid=GUIDS[3])
    assert "runtimeConfig.infinibandGUID must be a GUID like 00:11:22:33:44:55:66:77 (got 'x')" in text


@pytest.mark.parametrize(
    ("guid", "words"),
    [
        (
            "00:00:00:00:00:00:00:00",
            "guid must be a GUID that a port can have (got 00:00:00:00:00:00:00:00, which is all zeros",
        ),
        ("ffffffffffffffff", "(got ff:ff:ff:ff:ff:ff:ff:ff, which is all ones"),
        ("ff:00:00:00:00:00:00:01", "starts with ff"),
        (5, "guid must be a GUID like 00:11:22:33:44:55:66:77 (got 5)"),
        (["x"], "guid must be a GUID like 00:11:22:33:44:55:66:77 (got ['x'])"),
        (False, "guid must be a GUID like 00:11:22:33:44:55:66:77 (got False)"),
    ],
)
def test_a_guid_no_port_can_have(guid: object, words: str) -> None:
    assert words in refusal(guid=guid)


@pytest.mark.parametrize(
    ("conf", "device"),
    [
        ({"deviceID": PCI}, PCI),
        ({"pciBusID": PCI}, PCI),
        ({"deviceID": PCI, "pciBusID": "0000:3b:00.7"}, PCI),
        ({"deviceID": "0000:3b:00.7", "runtimeConfig": {"deviceID": PCI}}, PCI),
        ({"deviceID": "", "pciBusID": PCI.upper()}, PCI),
    ],
)
def test_n1_sources_of_the_device(conf: dict[str, Any], device: str) -> None:
    assert parse_netconf(request(conf)).device == device


@pytest.mark.parametrize("device", ["mlx5_0", "/sys/bus/pci/devices/0000:3b:00.2", 5, True, {"a": 1}])
def test_a_device_that_is_no_pci_address(device: object) -> None:
    assert f"deviceID must be a PCI address like 0000:3b:00.2 (got {device!r})" in refusal(deviceID=device)


def test_a_missing_device_is_told_with_the_other_faults() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_netconf(request({"mtu": 1, "guid": "x"}))
    for words in ("deviceID must be the PCI address of a VF (got nothing)", "(got 1)", "(got 'x')"):
        assert words in caught.value.msg


def test_gc_and_status_need_no_device() -> None:
    assert parse_netconf(request({}), needs_device=False).device is None


def test_n5_ib_kubernetes_tells_when_it_is_ready() -> None:
    word = "mellanox.infiniband.app"
    assert parse(args={"cni": {word: "configured"}}).ib_kubernetes_ready
    for other in ("", "pending", True, 1, ["configured"]):
        assert not parse(args={"cni": {word: other}}).ib_kubernetes_ready


# ---- strict types


@pytest.mark.parametrize("key", ["rdmaIsolation", "acceptRA", "ibKubernetesEnabled"])
@pytest.mark.parametrize("wrong", ["true", "false", 1, 0, "", [], {}])
def test_true_is_a_boolean_not_its_name(key: str, wrong: object) -> None:
    assert f"{key} must be true or false (got {wrong!r})" in refusal(**{key: wrong})


@pytest.mark.parametrize(("given_as", "accepted"), [(True, True), (False, False), (None, False)])
def test_router_advertisements_are_accepted_if_asked_for(given_as: bool | None, accepted: bool) -> None:
    assert parse(acceptRA=given_as).accept_ra is accepted
    assert parse_netconf(request({"acceptRA": "true"}, command="DEL"), lenient=True).accept_ra is False


@pytest.mark.parametrize("wrong", ["2044", True, False, 2044.0, [2044]])
def test_mtu_is_a_number(wrong: object) -> None:
    assert f"mtu must be a number of bytes (got {wrong!r})" in refusal(mtu=wrong)


@pytest.mark.parametrize("wrong", [1, 67, 65521, -1])
def test_mtu_is_in_range(wrong: int) -> None:
    assert f"mtu must be between 68 and 65520 (got {wrong})" in refusal(mtu=wrong)


@pytest.mark.parametrize(("mtu", "read"), [(68, 68), (65520, 65520), (4092, 4092), (0, None), (None, None)])
def test_mtu(mtu: int | None, read: int | None) -> None:
    assert parse(mtu=mtu).mtu == read


@pytest.mark.parametrize("key", ["portTimeout", "lockTimeout"])
@pytest.mark.parametrize("wrong", ["10", True, -1, -0.5, 3601, 1e300, [], {}, 10**400])
def test_seconds_are_a_number_in_range(key: str, wrong: object) -> None:
    assert f"{key} must be a number of seconds from 0 to 3600 (got {repr(wrong)[:80]})" in refusal(**{key: wrong})


@pytest.mark.parametrize("seconds", [0, 0.25, 3600])
def test_seconds(seconds: float) -> None:
    conf = parse(portTimeout=seconds, lockTimeout=seconds)
    assert (conf.port_timeout, conf.lock_timeout) == (seconds, seconds)
    assert parse(portTimeout=None).port_timeout == 30.0


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"link_state": "up"}, "link_state must be auto, enable or disable (got 'up')"),
        ({"link_state": True}, "link_state must be auto, enable or disable (got True)"),
        ({"link_state": ["auto"]}, "link_state must be auto, enable or disable (got ['auto'])"),
        ({"stateDir": "state"}, "stateDir must be an absolute path (got 'state')"),
        ({"runtimeConfig": {"CNIDeviceInfoFile": "x"}}, "CNIDeviceInfoFile must be an absolute path (got 'x')"),
        ({"ipam": {"type": ""}}, "ipam.type must be the name of an IPAM plugin (got nothing)"),
        ({"ipam": {"subnet": "10.0.0.0/24"}}, "ipam.type must be the name of an IPAM plugin (got nothing)"),
        ({"ipam": {"type": 5}}, "ipam.type must be the name of an IPAM plugin (got 5)"),
        ({"ipam": {"type": "dhcp"}}, "ipam.type must be a plugin that works over IPoIB"),
        ({"prevResult": {"interfaces": 5}}, "prevResult must be a CNI result (got one that is not valid: "),
    ],
)
def test_a_fault_names_key_and_value(conf: dict[str, Any], words: str) -> None:
    text = refusal(**conf)
    assert words in text
    assert text.count("; ") == 0, "one fault, one sentence"


@pytest.mark.parametrize(
    ("word", "level"),
    [
        *(("panic", "error"), ("fatal", "error"), ("verbose", "info"), ("warn", "warning"), ("trace", "debug")),
        *(("INFO", "info"), ("Debug", "debug"), ("WARNING", "warning"), ("Panic", "error")),
    ],
)
def test_log_levels_of_other_plugins_are_understood(word: str, level: str) -> None:
    conf = parse(logLevel=word)
    assert (conf.log_level, conf.warnings) == (level, ())


@pytest.mark.parametrize("word", ["loud", 3, True, [], {"a": 1}])
def test_a_log_level_that_means_nothing_is_a_warning(word: object) -> None:
    conf = parse(logLevel=word)
    text = f"logLevel should be debug, info, warning or error (got {word!r}): info is used"
    assert (conf.log_level, conf.warnings) == ("info", (text,))


@pytest.mark.parametrize("path", ["ib.log", 5, "/a\0b", []])
def test_a_log_file_that_is_no_path_is_a_warning(path: object) -> None:
    conf = parse(logFile=path)
    text = f"logFile should be an absolute path (got {path!r}): the log goes to standard error"
    assert (conf.log_file, conf.warnings) == ("", (text,))


@pytest.mark.parametrize("key", [name for name in KNOWN if name not in ("args", "prevResult", "cniVersion", "type")])
def test_keys_in_another_case(key: str) -> None:
    """What encoding/json does for the plugins written in Go. rdmaIsolation, ignored, would leave isolation off."""
    values: dict[str, Any] = {
        "name": "ib",
        "deviceID": PCI,
        "guid": GUIDS[0],
        "pkey": "0x8001",
        "mtu": 2044,
        "link_state": "auto",
        "podMayChoose": ["ips"],
        "logLevel": "debug",
        "ipam": {"type": "whereabouts"},
        "runtimeConfig": {"CNIDeviceInfoFile": "/i"},
        **dict.fromkeys(("rdmaIsolation", "acceptRA", "ibKubernetesEnabled", "vfioPciMode"), True),
        **dict.fromkeys(("portTimeout", "lockTimeout", "ipamTimeout"), 7),
        **dict.fromkeys(("logFile", "stateDir"), "/x"),
    }
    given_value = values.get(key, {})
    base = {} if key == "deviceID" else {"deviceID": PCI}
    for spelling in (key.upper(), key.capitalize(), key.swapcase()):
        name = {spelling: given_value}
        assert parse_netconf(request({**base, **name})) == parse_netconf(request({**base, key: given_value}))


def test_inner_keys_in_another_case() -> None:
    conf = parse_netconf(request({"RuntimeConfig": {"DeviceID": PCI}, "Args": {"CNI": {"PKey": "8001"}}}))
    assert (conf.device, conf.pkey) == (PCI, 0x8001)


def test_rdma_isolation_in_two_spellings_that_differ() -> None:
    with pytest.raises(InvalidConfiguration, match="rdmaIsolation and RdmaIsolation are one key"):
        parse(rdmaIsolation=True, RdmaIsolation=False)


def test_an_empty_word_is_the_default() -> None:
    conf = parse(link_state="", logLevel="", logFile="", stateDir="", ipam={})
    assert (conf.link_state, conf.log_level, conf.log_file, conf.ipam_type) == ("", "info", "", "")


@pytest.mark.parametrize(
    ("pkey", "read"),
    [("0x7fff", 0x7FFF), ("0xffff", 0xFFFF), ("8001", 0x8001), (0x8001, 0x8001), ("", None), (None, None), ("0X1", 1)],
)
def test_pkey(pkey: object, read: int | None) -> None:
    assert parse(pkey=pkey).pkey == read
    assert parse(pkey="0x1234", args={"cni": {"pkey": pkey}}).pkey == (read or 0x1234)


@pytest.mark.parametrize(
    "wrong",
    ["0x8000", "0x0000", 0, 0x8000, "0x10000", 0x10000, "x", "0x", True, 1.5, [1], -1, "-1", "-0x7fff", "0x7_fff"],
)
def test_a_wrong_pkey(wrong: object) -> None:
    assert f"pkey must be a P_Key from 0x0001 to 0xffff other than 0x8000 (got {wrong!r})" in refusal(pkey=wrong)
    assert "args.cni.pkey must be a P_Key" in refusal(args={"cni": {"pkey": wrong}})


# ---- all faults at once, and none for DEL

EVERY_FAULT: dict[str, Any] = {
    "deviceID": "x",
    "guid": 5,
    "link_state": 5,
    "rdmaIsolation": "true",
    "pkey": "x",
    "mtu": "x",
    "acceptRA": 0,
    "podMayChoose": "all",
    "ibKubernetesEnabled": 1,
    "ipam": {"type": "dhcp"},
    "portTimeout": "x",
    "lockTimeout": "x",
    "stateDir": "x",
    "runtimeConfig": {"CNIDeviceInfoFile": "x"},
    "prevResult": {"ips": 5},
}


def test_c4_several_faults_are_in_one_message() -> None:
    names = {"runtimeConfig": "CNIDeviceInfoFile", "ipam": "ipam.type"}
    keys = list(EVERY_FAULT)
    for some in (keys[:FAULTS], keys[FAULTS:]):
        text = refusal(**{key: EVERY_FAULT[key] for key in some})
        assert text.startswith("network ib: ")
        assert len(text.split("; ")) >= len(some)
        for key in some:
            assert names.get(key, key) in text, key
    assert refusal(**EVERY_FAULT).endswith(f"; and {len(EVERY_FAULT) - FAULTS} more")


def test_c13_a_del_reads_past_every_fault() -> None:
    conf = parse_netconf(request(EVERY_FAULT, command="DEL"), lenient=True)
    assert (conf.device, conf.guid, conf.log_level, conf.log_file, conf.state_dir) == (None, None, "info", "", "")
    assert conf.ipam_type == "dhcp"  # the plugin that reserved the addresses has to release them


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = [*EVERY_FAULT, "pciBusID", "args", "name", "cniVersion"]
OBJECT = st.dictionaries(
    st.sampled_from([*KEYS, "infinibandGUID", "guid", "cni", "type", "ips", "CNIDeviceInfoFile"]), JSON, max_size=4
)


def bare_request(conf: dict[str, Any], args: dict[str, str]) -> Request:
    return Request(command="DEL", args=args, conf=conf, version="1.0.0", environ={})


@given(
    st.dictionaries(st.sampled_from(KEYS), JSON | OBJECT, max_size=8),
    st.dictionaries(st.sampled_from(["guid", "K8S_POD_NAME"]), st.text(max_size=8), max_size=2),
)
def test_c13_lenient_never_raises(conf: dict[str, Any], args: dict[str, str]) -> None:
    found = parse_netconf(bare_request(conf, args), lenient=True)
    assert isinstance(found.lock_timeout, float)
    assert found.log_level in {"debug", "info", "warning", "error"}
    assert found.state_dir == "" or found.state_dir.startswith("/")


@given(
    st.dictionaries(st.sampled_from(KEYS), JSON | OBJECT, max_size=8),
    st.dictionaries(st.sampled_from(["guid", "K8S_POD_NAME"]), st.text(max_size=8), max_size=2),
)
def test_c4_strict_gives_a_configuration_or_code_7(conf: dict[str, Any], args: dict[str, str]) -> None:
    try:
        found = parse_netconf(bare_request(conf, args))
    except InvalidConfiguration:
        return
    assert found.device is not None
    assert found.guid is None or not found.guid.fault


@pytest.mark.parametrize("key", sorted(EVERY_FAULT))
def test_c13_nested_as_deep_as_the_parser_goes(key: str) -> None:
    depth = 10
    while True:  # find the deepest nesting that the JSON reader accepts: repr() alone would fail on it
        try:
            found = loads("[" * depth * 2 + "]" * depth * 2)
        except ValueError:
            break
        deepest, depth = found, depth * 2

    def descend(levels: int) -> NetConf:
        if levels:
            return descend(levels - 1)
        return parse_netconf(bare_request({key: deepest}, {}), lenient=True)

    assert descend(400).device is None
