"""The life of an attachment: results of every version, undoing, checking, locking (C7 to C9, C11 to C15, C20, C21)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conformance.runtime import CONF, VERSIONS, Runtime, StandIn, locked, refused, silent, since
from tests.conformance.schemas import RESULTS
from tests.lab.commands import run as command
from tests.lab.pod import Pod
from tests.lab.rig import STATE, Rig, guid_of, leases

HOST_LOCAL = {"type": "host-local", "subnet": "10.56.0.0/24"}
# What a delegate of the newest version knows; older ones must not see all of it.
GRANT: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "ips": [
        {"address": "10.9.0.2/24", "gateway": "10.9.0.1"},
        {"address": "10.8.0.2/24"},
        {"address": "fd00:9::2/64"},
    ],
    "routes": [{"dst": "10.7.0.0/16", "gw": "10.9.0.1", "mtu": 1500, "advmss": 1400, "priority": 7}],
    "dns": {"nameservers": ["10.9.0.53"], "domain": "cluster.local", "search": ["local"], "options": ["ndots:5"]},
}
DNS = GRANT["dns"]


def expected(version: str, pod: Pod, mac: str, pci: str, mtu: int) -> dict[str, Any]:
    """The document of a version, by the specification's chapter on results."""
    route = {"dst": "10.7.0.0/16", "gw": "10.9.0.1"}
    if version in ("0.1.0", "0.2.0"):
        return {
            "cniVersion": version,
            "ip4": {"ip": "10.9.0.2/24", "gateway": "10.9.0.1", "routes": [route]},
            "ip6": {"ip": "fd00:9::2/64"},
            "dns": DNS,
        }
    interface: dict[str, Any] = {"name": "net1", "mac": mac, "sandbox": pod.netns}
    ips: list[dict[str, Any]] = [{"interface": 0, **ip} for ip in GRANT["ips"]]
    if version == "1.1.0":
        interface |= {"mtu": mtu, "pciID": pci}
        route |= {"mtu": 1500, "advmss": 1400, "priority": 7}  # type: ignore[dict-item]  # numbers beside texts
    if version.startswith("0"):
        ips = [{"version": "6" if ":" in ip["address"] else "4", **ip} for ip in ips]
    return {"cniVersion": version, "interfaces": [interface], "ips": ips, "routes": [route], "dns": DNS}


@pytest.mark.parametrize("version", VERSIONS)
def test_c07_results(rig: Rig, standin: StandIn, version: str) -> None:
    """Each version has its own shape, and nothing of a later one, though the delegate answers in the newest."""
    standin.answers("ADD", GRANT)
    pod = rig.pod()
    conf = rig.conf(cniVersion=version, ipam={"type": "standin"}, portTimeout=0)
    run = rig.cni("ADD", pod, conf, env=standin.path)
    assert run.status == 0, run
    jsonschema.validate(run.out, RESULTS[version])
    link: Any = pod.link()
    assert run.out == expected(version, pod, link["address"], rig.hca.pci(0), link["mtu"])
    assert pod.addresses() == ["10.8.0.2/24", "10.9.0.2/24", "fd00:9::2/64"]
    if version in since("0.4.0"):
        silent(rig.cni("CHECK", pod, {**conf, "prevResult": run.out}, env=standin.path))
    silent(rig.cni("DEL", pod, conf, env=standin.path))
    rig.assert_as_before()


def test_c08_the_name_is_taken(rig: Rig) -> None:
    pod = rig.pod()
    pod.run("ip link add net1 type veth peer name other")
    refused(rig.call("ADD", pod, guid=guid_of(1)), 4, "net1", "nothing was changed")
    link: Any = pod.link()
    assert link["linkinfo"]["info_kind"] == "veth"
    assert leases() == []
    rig.assert_as_before()


def before_us(version: str, pod: Pod) -> dict[str, Any]:
    """What two plugins before us in a chain made: a pair of interfaces and an address on the second."""
    ip: dict[str, Any] = {"address": "10.1.0.9/16", "gateway": "10.1.0.1", "interface": 1}
    pair: list[dict[str, Any]] = [
        {"name": "veth0", "mac": "0a:00:00:00:00:01"},
        {"name": "eth0", "mac": "0a:00:00:00:00:02", "sandbox": pod.netns},
    ]
    if version == "1.1.0":
        pair[0]["mtu"] = 1450
    if version.startswith("0"):
        ip["version"] = "4"
    routes = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]
    return {"cniVersion": version, "interfaces": pair, "ips": [ip], "routes": routes, "dns": {"domain": "first"}}


@pytest.mark.parametrize("version", ["0.3.1", "1.1.0"])
def test_c09_behind_another_plugin(rig: Rig, version: str) -> None:
    """What prevResult says is passed on as it was, ours is appended, and the indices of addresses stay right."""
    pod = rig.pod()
    before = before_us(version, pod)
    ipam = {**HOST_LOCAL, "routes": [{"dst": "10.99.0.0/16"}]}  # by its own gateway, not by the earlier plugin's
    conf = rig.conf(cniVersion=version, prevResult=before, ipam=ipam, portTimeout=0)
    run = rig.cni("ADD", pod, conf)
    assert run.status == 0, run
    jsonschema.validate(run.out, RESULTS[version])
    assert run.out["interfaces"][:2] == before["interfaces"]
    assert [each["name"] for each in run.out["interfaces"]] == ["veth0", "eth0", "net1"]
    assert run.out["ips"][:1] == before["ips"]
    assert [ip["interface"] for ip in run.out["ips"]] == [1, 2]
    assert run.out["routes"][:1] == before["routes"]
    assert run.out["dns"] == before["dns"]
    if version in since("0.4.0"):
        silent(rig.cni("CHECK", pod, {**conf, "prevResult": run.out}))
    silent(rig.cni("DEL", pod, {**conf, "prevResult": run.out}))
    rig.assert_as_before()


def test_c09_before_the_real_tuning(rig: Rig, ask: Runtime, go_plugins: str) -> None:
    """The Go plugin reads our result in each version that chains know, and hands it on unchanged."""
    pod = rig.pod()
    conf = rig.conf(ipam=HOST_LOCAL, portTimeout=0)
    newest = rig.cni("ADD", pod, conf)
    assert newest.status == 0, newest
    for version in since("0.3.0"):
        ours = {key: item for key, item in newest.out.items() if key != "routes"} | {"cniVersion": version}
        if version.startswith("0"):
            ours["ips"] = [{"version": "4", **ip} for ip in ours["ips"]]
        if version != "1.1.0":
            ours["interfaces"] = [{k: item[k] for k in ("name", "mac", "sandbox")} for item in ours["interfaces"]]
        jsonschema.validate(ours, RESULTS[version])
        sysctl = {"net.ipv4.conf.net1.arp_ignore": "1"}
        tuned = {"cniVersion": version, "name": "ibnet", "type": "tuning", "sysctl": sysctl, "prevResult": ours}
        environ = {"CNI_CONTAINERID": pod.container_id, "CNI_NETNS": pod.netns}
        text = json.dumps(tuned)
        done = ask.shell(f"'{go_plugins}/tuning' <<<'{text}'", "ADD", **environ)
        assert done.status == 0, done
        assert done.out["interfaces"] == ours["interfaces"]
        assert [ip["address"] for ip in done.out["ips"]] == [ip["address"] for ip in ours["ips"]]
        assert done.out["cniVersion"] == version
    silent(rig.cni("CHECK", pod, {**conf, "prevResult": newest.out}))
    silent(rig.cni("DEL", pod, conf))
    rig.assert_as_before()


@pytest.mark.parametrize("step", ["set_port_guid.done", "verify_rdma"])
def test_c11_a_failed_add_and_the_del_after_it(rig: Rig, step: str) -> None:
    """The host is as before at once; the DEL that a runtime sends all the same is a success."""
    pod = rig.pod()
    refused(rig.call("ADD", pod, trace=f"{step}=fail", guid=guid_of(1), link_state="enable"), 100)
    rig.assert_as_before()
    assert [link["ifname"] for link in pod.links()] == ["lo"]
    rig.delete(pod, guid=guid_of(1), link_state="enable")
    rig.assert_as_before()


def test_c12_the_key_of_an_attachment(rig: Rig) -> None:
    """Network, container and interface name it; the path of the namespace does not."""
    pod = rig.pod()
    first = rig.add(pod, 0, portTimeout=0)
    rig.add(pod, 1, ifname="net2", portTimeout=0, ipam=HOST_LOCAL)
    rig.delete(pod, 1, name="othernet")
    assert pod.link("net2") is not None
    with open(pod.netns) as netns:
        silent(rig.cni("DEL", pod, rig.conf(1), "net2", {"CNI_NETNS": f"/proc/self/fd/{netns.fileno()}"}))
    assert pod.link("net2") is None
    assert rig.check(pod, first).status == 0
    silent(rig.cni("DEL", pod, rig.conf(0), env={"CNI_NETNS": "/run/netns/another"}))
    rig.assert_as_before()


def test_c13_del_without_anything_to_release(rig: Rig, ask: Runtime, tmp_path: Path) -> None:
    """No namespace, an empty one, an ordinary file in its place; no record, no lease, no prevResult, no device."""
    file = tmp_path / "netns"
    file.touch()
    for netns in (None, "", "/run/netns/gone", str(file), "/proc/self/ns/net"):
        silent(ask("DEL", rig.conf(), CNI_NETNS=netns))
    silent(ask("DEL", CONF))
    silent(ask("DEL", rig.conf(guid="junk", mtu="junk", prevResult={"ips": 5}), CNI_ARGS="junk"))
    rig.assert_as_before()


def test_c13_del_after_a_half_finished_add(rig: Rig) -> None:
    """Killed with the VF in the pod: two DELs without a namespace release it, its GUID and its address."""
    pod = rig.pod()
    killed = rig.start("ADD", pod, trace="configure=kill", guid=guid_of(1), link_state="enable")
    assert killed.wait(120) == -9
    killed.communicate()
    assert leases() == ["10.56.0.2"]
    for _ in range(2):
        silent(rig.cni("DEL", pod, rig.conf(), env={"CNI_NETNS": ""}))
    rig.assert_as_before()


def test_c14_a_fault_keeps_nothing_else_from_its_release(rig: Rig, standin: StandIn) -> None:
    """Its IPAM plugin is missing: the VF is returned, the record stays; with the plugin back, all is released."""
    standin.answers("ADD", GRANT)
    pod = rig.pod()
    conf = rig.conf(ipam={"type": "standin"}, guid=guid_of(1), portTimeout=0)
    added = rig.cni("ADD", pod, conf, env=standin.path)
    assert added.status == 0, added
    standin.program.rename(standin.folder / "away")
    refused(rig.cni("DEL", pod, conf, env=standin.path), 104, "standin", "CNI_PATH")
    assert rig.hca.netdevs(0)
    assert rig.hca.port_guid(0) != guid_of(1)
    assert len(list((STATE / "attachments").rglob("*.json"))) == 1
    (standin.folder / "away").rename(standin.program)
    standin.calls()
    silent(rig.cni("DEL", pod, conf, env=standin.path))
    assert standin.calls() == ["DEL"]
    rig.assert_as_before()


def test_c15_check(rig: Rig, standin: StandIn) -> None:
    """Quiet when all is right and when a later plugin has added something; each difference is named otherwise."""
    standin.answers("ADD", GRANT)
    pod = rig.pod()
    conf = rig.conf(ipam={"type": "standin"}, portTimeout=0)
    added = rig.cni("ADD", pod, conf, env=standin.path)
    assert added.status == 0, added
    refused(rig.cni("CHECK", pod, conf, env=standin.path), 7, "prevResult")
    later = {
        **added.out,
        "interfaces": [*added.out["interfaces"], {"name": "sbr0", "sandbox": pod.netns}],
        "routes": [*added.out["routes"]],
    }
    pod.run("ip addr add 192.0.2.1/32 dev net1; ip route add 192.0.2.128/25 dev net1")
    standin.calls()
    silent(rig.cni("CHECK", pod, {**conf, "prevResult": later}, env=standin.path))
    assert standin.calls() == ["CHECK"]
    assert standin.stdin("CHECK")["prevResult"] == later
    pod.run("ip addr del 10.8.0.2/24 dev net1; ip route del 10.7.0.0/16")
    command(f"ip link set {rig.hca.pf_netdev} vf 0 state disable")
    standin.answers("CHECK", {"cniVersion": "1.1.0", "code": 999, "msg": "lease lost"}, 1)
    words = ("10.8.0.2/24", "10.7.0.0/16", "link state disable", "lease lost")
    refused(rig.cni("CHECK", pod, {**conf, "prevResult": added.out}, env=standin.path), 105, *words)
    command(f"ip link set {rig.hca.pf_netdev} vf 0 state auto")
    silent(rig.cni("DEL", pod, conf, env=standin.path))
    rig.assert_as_before()


def test_c20_own_namespace(rig: Rig) -> None:
    """Code 8 before anything is touched, unless the runtime says that it means it."""
    pod = rig.pod()
    own = {"CNI_NETNS": "/proc/self/ns/net"}
    refused(rig.cni("ADD", pod, rig.conf(guid=guid_of(1)), env=own), 8, "nothing was changed")
    for override in ("1", "true"):
        environ = {**own, "CNI_NETNS_OVERRIDE": override}
        refused(rig.cni("ADD", pod, rig.conf(None, deviceID="0009:00:00.1"), env=environ), 101)
    assert leases() == []
    rig.assert_as_before()


def test_c21_a_held_lock(rig: Rig) -> None:
    """Code 11 past the deadline, with who holds it; another VF is served meanwhile."""
    waiting, other = rig.pod(), rig.pod()
    held = locked(f"/run/ib-sriov/{rig.hca.pci(0)}.lock")
    try:
        os.truncate(held, 0)
        os.pwrite(held, b"4711 9876fed net1 1700000000\n", 0)
        refused(rig.call("ADD", waiting, 0, lockTimeout=0.2), 11, "process 4711", "9876fed", "net1")
        rig.add(other, 1, portTimeout=0)
        rig.delete(other, 1)
    finally:
        os.close(held)
    rig.assert_as_before()
