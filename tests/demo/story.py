"""`make demo`, the guest's side: the story of two pods, printed while it happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
from typing import Any

from tests.demo.terminal import StepFailed, Story
from tests.lab import commands, emulated_hca
from tests.lab.emulated_hca import Hca
from tests.lab.pod import Pod
from tests.lab.snapshot import Snapshot, differences, host_snapshot

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
CNI_BIN = "/opt/cni/bin"
CONF_FOLDER = "/etc/cni/net.d"
RECORDS = "/var/lib/cni/ib-sriov/attachments"
NETWORK = "fabric"
CONFLIST = {
    "cniVersion": "1.1.0",
    "name": NETWORK,
    "plugins": [
        {
            "type": "ib-sriov",
            "capabilities": {"deviceID": True},
            "link_state": "enable",
            "rdmaIsolation": True,
            "ipam": {"type": "host-local", "subnet": "172.16.100.0/24"},
        }
    ],
}
PR_SET_CHILD_SUBREAPER = 36
PINGPONG_PORT = 18515
MESSAGES = 1000


class Demo:
    """The story's state: the node's HCA, the node as it was, the pods, the VF each of them gets."""

    hca: Hca
    before: Snapshot
    pods: list[Pod]

    def __init__(self, story: Story) -> None:
        self.story = story
        self.cnitool = os.environ["LAB_DEMO_CNITOOL"]
        self.vf_of: dict[str, int] = {}

    # ---- cnitool ----

    def environment(self, pod: Pod) -> dict[str, str]:
        """What a runtime sets for cnitool: where plugins and configuration lie, who the pod is, which VF it gets."""
        return os.environ | {
            "CNI_PATH": CNI_BIN,
            "NETCONFPATH": CONF_FOLDER,
            "CNI_IFNAME": "net1",
            "CNI_ARGS": f"IgnoreUnknown=true;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={pod.name}",
            "CAP_ARGS": json.dumps({"deviceID": self.hca.pci(self.vf_of[pod.name])}),
        }

    def call(self, verb: str, pod: Pod) -> str:
        """Run cnitool for one pod; return what it prints. A failure carries its output."""
        self.story.command(f"cnitool {verb} {NETWORK} {pod.netns}")
        done = subprocess.run(
            [self.cnitool, verb, NETWORK, pod.netns],
            env=self.environment(pod),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        # After a failure it prints its usage first, then the plugin's message.
        said = (done.stdout + done.stderr).strip().split("\n\n")[-1]
        assert done.returncode == 0, f"cnitool {verb} ended with {done.returncode}: {said}"
        return done.stdout

    # ---- the steps ----

    def node(self) -> None:
        self.hca = emulated_hca.load(vfs=4, mode="exclusive", pf_name="eth100")
        self.story.say(
            f"The HCA is a PCI device at {self.hca.pf}; the kernel calls its RDMA device {self.hca.pf_rdma} and its "
            f"IPoIB netdev {self.hca.pf_netdev}. Four VFs have been made, and nobody has given them a GUID yet:"
        )
        self.table()
        self.before = host_snapshot(self.hca)

    def table(self) -> None:
        """The VFs that are in the node's own namespace."""
        rows = [
            f"VF {vf}  {self.hca.pci(vf)}  {self.hca.rdma(vf):8}  {self.hca.netdev(vf):6}  "
            f"port GUID {self.hca.port_guid(vf)}  link state {self.hca.link_state(vf)}"
            for vf in range(self.hca.numvfs)
            if self.hca.rdma(vf)
        ]
        self.story.show("\n".join(rows))

    def network(self) -> None:
        install_plugin()
        os.makedirs(CONF_FOLDER, exist_ok=True)
        path = os.path.join(CONF_FOLDER, f"10-{NETWORK}.conflist")
        text = json.dumps(CONFLIST, indent=2)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        self.story.command(f"cat {path}")
        self.story.show(text)

    def make_pods(self) -> None:
        self.pods = [Pod("worker-0"), Pod("worker-1")]
        self.vf_of = {"worker-0": 0, "worker-1": 1}
        for pod in self.pods:
            names = [link["ifname"] for link in pod.links()]
            assert names == ["lo"], f"{pod.name} already has {names}"
            assert pod.rdma() == [], f"{pod.name} already sees {pod.rdma()}"
        self.story.say("Each is a network namespace with lo and nothing else; no RDMA device is to be seen in it.")

    def add(self) -> None:
        for pod in self.pods:
            self.attach(pod)

    def attach(self, pod: Pod) -> None:
        result = json.loads(self.call("add", pod))
        interface = next(each for each in result["interfaces"] if each["name"] == "net1")
        address = result["ips"][0]["address"]
        pci = self.hca.pci(self.vf_of[pod.name])
        assert interface.get("pciID") == pci, f"the result names {interface.get('pciID')}, not {pci}"
        assert interface.get("mac"), "the result has no hardware address"
        self.story.say(
            f"{pod.name} got VF {self.vf_of[pod.name]} ({pci}) as net1 with {address}, "
            f"hardware address {interface['mac']}."
        )

    def look(self) -> None:
        guids = []
        for pod in self.pods:
            link = pod.link()
            assert link is not None, f"{pod.name} has no net1"
            assert link["link_type"] == "infiniband", f"net1 is {link['link_type']}"
            assert {"UP", "LOWER_UP"} <= set(link["flags"]), f"net1 is not up: {link['flags']}"
            assert len(pod.addresses()) == 1, f"net1 has the addresses {pod.addresses()}"
            guids.append(link["address"][-23:])
            for command in ("ip -br addr show net1", "rdma dev"):
                self.story.command(f"ip netns exec {pod.name} {command}")
                self.story.show(pod.run(command).stdout)
        assert len(set(guids)) == len(guids), f"GUIDs are not unique: {guids}"
        assert emulated_hca.NO_GUID not in guids, f"a GUID is still zero: {guids}"
        assert all(int(guid[:2], 16) & 0x02 for guid in guids), f"a GUID is not marked as locally administered: {guids}"
        self.story.say(
            f"The GUIDs {' and '.join(guids)} were derived from the HCA's own and the VF index: "
            "they are the same after a reboot."
        )

    def devinfo(self) -> None:
        for pod in self.pods:
            self.story.command(f"ip netns exec {pod.name} ibv_devinfo")
            text = pod.run("ibv_devinfo").stdout
            assert text.count("hca_id:") == 1, f"{pod.name} sees other RDMA devices than its own:\n{text}"
            assert "PORT_ACTIVE" in text, f"the port is not active:\n{text}"
            wanted = ("hca_id", "node_guid", "state", "active_mtu", "port_lid", "link_layer")
            lines = [line.split() for line in text.splitlines() if line.strip().startswith(wanted)]
            self.story.show("\n".join(f"{words[0]:16}{' '.join(words[1:])}" for words in lines))

    def ping(self) -> None:
        for source, target in (self.pods, self.pods[::-1]):
            address = target.addresses()[0].split("/")[0]
            self.story.command(f"ip netns exec {source.name} ping -c 3 -i 0.2 {address}")
            text = source.run(f"ping -c 3 -i 0.2 -W 5 {address}").stdout
            assert commands.received(text) == 3, text
            self.story.show("\n".join(text.splitlines()[-2:]))

    def pingpong(self) -> None:
        client, server = self.pods
        address = server.addresses()[0].split("/")[0]
        options = f"-n {MESSAGES} -s 4096"
        self.story.command(f"ip netns exec {server.name} ibv_rc_pingpong {options} &")
        self.story.command(f"ip netns exec {client.name} ibv_rc_pingpong {options} {address}")
        listening = subprocess.Popen(
            ["ip", "netns", "exec", server.name, "ibv_rc_pingpong", *options.split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert commands.wait(lambda: f":{PINGPONG_PORT:04X} " in server.run("cat /proc/net/tcp*").stdout), (
                "ibv_rc_pingpong does not listen"
            )
            text = client.run(f"ibv_rc_pingpong {options} {address}").stdout
            served = listening.communicate(timeout=60)[0]
        finally:
            listening.kill()
        rates = [line for line in text.splitlines() if "Mbit/sec" in line]
        assert rates, text
        assert listening.returncode == 0, served
        self.story.show(text)
        self.story.say("That rate is of memory copied by the emulated HCA on an emulated processor, not of a fabric.")

    def check(self) -> None:
        for pod in self.pods:
            said = self.call("check", pod).strip()
            assert not said, f"CHECK is to say nothing: {said}"
        self.story.say("Both attachments are as ADD left them: GUIDs, names, addresses, routes, RDMA device, record.")

    def killed(self) -> None:
        become_subreaper()
        before = host_snapshot(self.hca)
        pod = Pod("worker-2")
        self.vf_of[pod.name] = 2
        self.story.command(f"cnitool add {NETWORK} {pod.netns} &")
        running = subprocess.Popen(
            [self.cnitool, "add", NETWORK, pod.netns],
            env=self.environment(pod),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Half-way: the VF's RDMA device is gone, because its driver is being bound anew.
        half_way = commands.wait(lambda: self.hca.rdma(2) is None or running.poll() is not None, timeout=60, step=0.005)
        os.killpg(running.pid, signal.SIGKILL)
        assert half_way, "ADD had not touched the VF after a minute"
        status = running.wait()
        # The plugin may be inside the kernel, binding a driver: it dies only when that has finished.
        await_orphans(running.pid)
        assert status == -signal.SIGKILL, f"ADD ended by itself, with {status}, before it could be killed"
        left = differences(before.facts, host_snapshot(self.hca).facts)
        assert left, "ADD was killed before it had done anything"
        self.story.command(f"kill -9 -{running.pid}")
        self.story.say("cnitool and the plugin are dead. What differs on the node now:")
        # For a file, its name is enough.
        self.story.show("\n".join(line.partition(": ")[0] if line.startswith("file ") else line for line in left))
        self.call("del", pod)
        pod.delete()
        before.assert_as_before()
        self.story.say("DEL found the record that ADD had written before it touched anything, and undid it all.")

    def delete(self) -> None:
        for pod in self.pods:
            self.call("del", pod)
            assert pod.link() is None, f"net1 is still in {pod.name}"
            assert pod.rdma() == [], f"{pod.name} still sees {pod.rdma()}"
        for pod in self.pods:
            pod.delete()
        self.story.say("The pods have lost net1 and their RDMA devices, and are gone themselves.")

    def compare(self) -> None:
        self.before.assert_as_before()
        self.table()
        records = [name for _, _, names in os.walk(RECORDS) for name in names]
        assert records == [], f"records are left: {records}"
        self.story.say(
            f"{len(self.before.facts)} facts of the node were written down before the first pod and read again now "
            "(drivers, names, GUIDs and link states as the VFs and the HCA have them, netdevs, addresses, leases, "
            "records, locks): not one differs."
        )


def install_plugin() -> None:
    """Put the plugin where runtimes look for it (IB_SRIOV_PLUGIN: another command)."""
    command = os.environ.get("IB_SRIOV_PLUGIN") or shlex.join([sys.executable, "-m", "ib_sriov_cni"])
    os.makedirs(CNI_BIN, exist_ok=True)
    path = os.path.join(CNI_BIN, "ib-sriov")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {command} "$@"\n')
    os.chmod(path, 0o755)  # noqa: S103  a program


def become_subreaper() -> None:
    """Have orphans handed to this process, which can then wait for them (prctl(2))."""
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def await_orphans(group: int) -> None:
    """Wait until every process of a group has ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


def kernel() -> str:
    name = os.uname()
    return f"{name.sysname} {name.release}"


def main() -> int:
    story = Story(colour=os.environ.get("LAB_DEMO_COLOUR") == "1")
    demo = Demo(story)
    steps: list[tuple[str, Any]] = [
        (f"A node runs {kernel()} and has an InfiniBand HCA with four VFs.", demo.node),
        ("An administrator writes a network configuration list.", demo.network),
        ("Two pods are made: worker-0 and worker-1.", demo.make_pods),
        ("cnitool asks the plugin to attach them (ADD).", demo.add),
        ("Each pod has an InfiniBand interface net1, and an RDMA device of its own.", demo.look),
        ("The verbs library opens the device from inside the pod, and its port is active.", demo.devinfo),
        ("The pods reach each other by IPoIB.", demo.ping),
        ("The pods reach each other by RDMA, without the kernel's network stack.", demo.pingpong),
        ("cnitool asks whether everything is still in place (CHECK).", demo.check),
        ("A third pod's ADD is killed half-way; its DEL tidies up.", demo.killed),
        ("The two pods have not noticed.", demo.ping),
        ("cnitool asks the plugin to detach them (DEL).", demo.delete),
        ("The node is as it was before the first pod.", demo.compare),
    ]
    try:
        for title, act in steps:
            with story.step(title):
                act()
    except StepFailed:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
