"""IPAM plugins that are executed: what they are given, and what becomes of their faults (C10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime import CONF, MULTUS_ARGS, Runtime, StandIn, refused, silent
from tests.lab.rig import STATE, Rig, guid_of

ANSWER = {"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.2/24"}]}
ERROR = {"cniVersion": "1.1.0", "code": 11, "msg": "the pool is being rebuilt", "details": "ask again in a minute"}
# What each one does on ADD, and the words of it that the runtime must read.
FAULTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "junk": ("echo 'this is no JSON'", ("not JSON", "this is no JSON")),
    "two documents": ("echo '{} {}'", ("not JSON", "{} {}")),
    "nothing": ("exit 0", ("not JSON",)),
    "death": ("kill -9 $$", ("signal 9",)),
    "status alone": ("echo 'no lease file' >&2; exit 3", ("exit status 3", "no lease file")),
    "error": (f"echo '{json.dumps(ERROR)}'; exit 1", ("code 11", "pool is being rebuilt", "ask again in a minute")),
    "error, status 0": (f"echo '{json.dumps(ERROR)}'", ("code 11", "pool is being rebuilt")),
    "no address": ("""echo '{"cniVersion":"1.1.0","ips":[]}'""", ("no address",)),
    "no CIDR": ("""echo '{"cniVersion":"1.1.0","ips":[{"address":"10.9.0.2"}]}'""", ("ips[0].address",)),
    "a list": ("echo '[]'", ("not a JSON object",)),
}
HANGS = {"hang": "sleep 1000", "hang, outputs closed": "exec <&- >&- 2>&-; sleep 1000"}
# Seconds: the limit holds for the DEL of the undo too, which takes more than the first on a slow machine.
LIMITS = (1, 5, 25)


@pytest.mark.parametrize("fault", FAULTS)
def test_c10_faults(rig: Rig, standin: StandIn, fault: str) -> None:
    """An error that quotes it, its own DEL, the host as before, the VF never touched."""
    script, words = FAULTS[fault]
    standin.on("ADD", script)
    pod = rig.pod()
    conf = rig.conf(ipam={"type": "standin"}, guid=guid_of(1))
    refused(rig.cni("ADD", pod, conf, env=standin.path), 104, "IPAM plugin standin ADD", *words)
    assert standin.calls() == ["ADD", "DEL"]
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    rig.assert_as_before()


@pytest.mark.parametrize("fault", HANGS)
def test_c10_no_answer(rig: Rig, standin: StandIn, fault: str) -> None:
    """It is killed at `ipamTimeout`, and the rest is as with any fault."""
    standin.on("ADD", HANGS[fault])
    pod = rig.pod()
    wanted: list[Any] = [["ADD", "DEL"], []]
    found: list[Any] = []
    for limit in LIMITS:
        conf = rig.conf(ipam={"type": "standin"}, guid=guid_of(1), ipamTimeout=limit)
        words = ("IPAM plugin standin ADD", f"no answer within {limit} s")
        refused(rig.cni("ADD", pod, conf, env=standin.path), 104, *words)
        found = [standin.calls(), list((STATE / "attachments").rglob("*.json"))]
        if found == wanted:
            break
        silent(rig.cni("DEL", pod, {**conf, "ipamTimeout": 600}, env=standin.path))
        standin.calls()
    assert found == wanted
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    rig.assert_as_before()


def test_c10_what_it_is_given(rig: Rig, standin: StandIn, tmp_path: Path) -> None:
    """The same input, the same variables but the command; its standard error reaches ours and the log."""
    standin.answers("ADD", ANSWER)
    standin.on("ADD", "echo 'looking at the pool' >&2; cat $here/ADD.json")
    pod, log = rig.pod(), tmp_path / "log"
    conf = rig.conf(ipam={"type": "standin", "pool": "a"}, logFile=str(log), portTimeout=0)
    environ = {**standin.path, "CNI_ARGS": MULTUS_ARGS, "HTTPS_PROXY": "http://proxy.example"}
    added = rig.cni("ADD", pod, conf, env=environ)
    assert added.status == 0, added
    seen = standin.environ("ADD")
    assert {name: seen[name] for name in environ} == environ
    assert (seen["CNI_COMMAND"], seen["CNI_CONTAINERID"], seen["CNI_NETNS"]) == ("ADD", pod.container_id, pod.netns)
    assert seen["CNI_IFNAME"] == "net1"
    assert standin.stdin("ADD") == conf
    assert "looking at the pool" in added.stderr
    assert "looking at the pool" in log.read_text()
    silent(rig.cni("DEL", pod, conf, env=environ))
    assert standin.stdin("DEL") == conf
    assert standin.calls() == ["ADD", "DEL"]
    rig.assert_as_before()


def test_c10_looked_up_in_cni_path(rig: Rig, ask: Runtime, standin: StandIn) -> None:
    """In its order; the message names what is absent and the folders, and no name leads out of them."""
    pod = rig.pod()
    conf = rig.conf(ipam={"type": "absent"}, guid=guid_of(1))
    refused(rig.cni("ADD", pod, conf, env={"CNI_PATH": "/one:/two"}), 104, "absent", "/one:/two")
    for kind in ("../standin.d/standin", str(standin.program), ".."):
        refused(rig.cni("ADD", pod, rig.conf(ipam={"type": kind}), env=standin.path), 104, "not the name of a plugin")
    assert standin.calls() == []
    rig.assert_as_before()


def test_c10_dhcp_is_refused_before_anything_is_touched(rig: Rig, standin: StandIn) -> None:
    standin.program.rename(standin.folder / "dhcp")
    conf = rig.conf(ipam={"type": "dhcp"}, guid=guid_of(1), link_state="enable")
    said = refused(rig.cni("ADD", rig.pod(), conf, env=standin.path), 7, "dhcp", "hardware addresses", "whereabouts")
    assert "nothing was changed" in said["details"]
    assert standin.calls() == []
    rig.assert_as_before()


def test_c10_older_than_gc_and_status(rig: Rig, standin: StandIn) -> None:
    """A delegate that knows neither command keeps ours from nothing; one that knows them and fails is quoted."""
    conf = rig.conf(None, ipam={"type": "standin"})
    listed = {**conf, "cni.dev/valid-attachments": []}
    pod = rig.pod()
    unknown: list[Any] = [
        {"code": 4, "msg": "unknown CNI_COMMAND: x"},
        {"code": 1, "msg": "plugin version too low"},
        {"code": 999, "msg": "unknown CNI_COMMAND: x"},
    ]
    for answer in unknown:
        for command, document in (("GC", listed), ("STATUS", conf)):
            standin.answers(command, {"cniVersion": "0.3.1", **answer}, 1)
            silent(rig.cni(command, pod, document, env=standin.path))
    standin.calls()
    for command, document, code in (("GC", listed, 104), ("STATUS", conf, 50)):
        standin.answers(command, {"cniVersion": "1.1.0", "code": 50, "msg": "datastore is away"}, 1)
        refused(rig.cni(command, pod, document, env=standin.path), code, "datastore is away")
    assert standin.calls() == ["GC", "STATUS"]


WHEREABOUTS = """
here=%s
name=$(sed -n 's/.*"range": *"\\([^"]*\\)\\/[0-9]*".*/\\1/p' $here/$CNI_COMMAND.stdin)
[ "$K8S" != wrong ] || exit 1
case $CNI_COMMAND in
ADD) # one address for each pod of the cluster; it wants to know the pod
	case $CNI_ARGS in *K8S_POD_NAME=*) ;; *) echo '{"code":100,"msg":"no pod in CNI_ARGS"}'; exit 1 ;; esac
	echo "${name%%.0}.17" > $here/lease
	echo "time=now level=debug msg=allocated" >&2
	lease=$(cat $here/lease)
	echo '{"cniVersion":"1.1.0","ips":[{"address":"'$lease'/24"}],"routes":[{"dst":"10.77.0.0/16"}]}' ;;
CHECK) [ -s $here/lease ] || { echo '{"code":100,"msg":"no lease"}'; exit 1; } ;;
DEL) rm -f $here/lease ;;
esac
"""


def test_c10_whereabouts_by_a_stand_in(rig: Rig, standin: StandIn) -> None:
    """Its way of working: configuration under ipam, the pod from CNI_ARGS, talk on stderr; the whole life."""
    for command in ("ADD", "CHECK", "DEL"):
        standin.on(command, WHEREABOUTS % standin.folder)
    standin.program.rename(standin.folder / "whereabouts")
    pod = rig.pod()
    conf = rig.conf(ipam={"type": "whereabouts", "range": "10.76.5.0/24", "log_level": "debug"}, portTimeout=0)
    environ = {**standin.path, "CNI_ARGS": MULTUS_ARGS}
    added = rig.cni("ADD", pod, conf, env=environ)
    assert added.status == 0, added
    assert pod.addresses() == ["10.76.5.17/24"]
    assert "10.77.0.0/16" in [route["dst"] for route in pod.routes()]
    silent(rig.cni("CHECK", pod, {**conf, "prevResult": added.out}, env=environ))
    silent(rig.cni("DEL", pod, conf, env=environ))
    assert not (standin.folder / "lease").exists()
    assert standin.calls() == ["ADD", "CHECK", "DEL"]
    rig.assert_as_before()


def test_c10_the_real_static(rig: Rig, go_plugins: str) -> None:
    pod = rig.pod()
    ipam = {
        "type": "static",
        "addresses": [{"address": "10.66.0.5/24", "gateway": "10.66.0.1"}, {"address": "fd00:66::5/64"}],
        "routes": [{"dst": "10.67.0.0/16", "gw": "10.66.0.1"}],
    }
    conf = rig.conf(ipam=ipam, portTimeout=0)
    environ = {"CNI_PATH": go_plugins}
    added = rig.cni("ADD", pod, conf, env=environ)
    assert added.status == 0, added
    assert pod.addresses() == ["10.66.0.5/24", "fd00:66::5/64"]
    assert [ip["interface"] for ip in added.out["ips"]] == [0, 0]
    silent(rig.cni("CHECK", pod, {**conf, "prevResult": added.out}, env=environ))
    silent(rig.cni("STATUS", pod, rig.conf(None, ipam=ipam), env=environ))
    silent(rig.cni("GC", pod, {**conf, "cni.dev/valid-attachments": []}, env=environ))
    assert pod.link() is not None
    silent(rig.cni("DEL", pod, conf, env=environ))
    rig.assert_as_before()


def test_c10_the_device_is_needed_first(ask: Runtime, standin: StandIn) -> None:
    """A configuration that is refused asks no delegate."""
    refused(ask("ADD", {**CONF, "ipam": {"type": "standin"}}, **standin.path), 7, "deviceID")
    assert standin.calls() == []
