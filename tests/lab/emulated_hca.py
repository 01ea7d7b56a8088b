"""The emulated HCA as tests handle it: load, VFs, GUIDs as each side sees them, knobs, unload."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.lab import commands
from tests.lab.commands import CommandFailed, links, names, read, read_json, run, write

T = TypeVar("T")

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
KNOBS = "/sys/module/ibemu/parameters"
PRESET_BASE = 0x0011223344560000
NO_GUID = "00:00:00:00:00:00:00:00"


def with_colons(guid: str) -> str:
    """Turn the 0011:2233:4455:6677 of sysfs into 00:11:22:33:44:55:66:77."""
    digits = guid.replace(":", "")
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))


class Hca:
    """One PF and its VFs; a VF is named by its index."""

    def __init__(self, index: int = 0, *, domain: int = 1) -> None:
        """`domain` is the first PF's; the others follow."""
        self.index = index
        self.pf = f"{domain + index:04x}:00:00.0"
        self.pfs: list[Hca] = [self]
        self._knobs: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Hca({self.pf})"

    # ---- the PF ----

    @property
    def pf_path(self) -> Path:
        return Path(DEVICES, self.pf)

    @property
    def pf_netdev(self) -> str:
        """The PF's netdev, by whatever name it has now."""
        found = names(self.pf_path / "net")
        assert found, f"the PF {self.pf} has no netdev"
        return found[0]

    @property
    def pf_rdma(self) -> str:
        found = names(self.pf_path / "infiniband")
        assert found, f"the PF {self.pf} has no RDMA device"
        return found[0]

    @property
    def numvfs(self) -> int:
        path = self.pf_path / "sriov_numvfs"
        return int(read(path)) if path.exists() else 0  # with total_vfs=0 it is a function without SR-IOV

    def set_numvfs(self, count: int) -> str:
        """Its result: "OK" or the errno's name."""
        return write(self.pf_path / "sriov_numvfs", count)

    def rename_pf(self, name: str) -> None:
        """Give the PF's netdev a name and bring it up; udev may be busy with it at the same time."""

        def renamed() -> bool:
            if self.pf_netdev != name:
                run(["ip", "link", "set", "dev", self.pf_netdev, "down"], check=False)
                run(["ip", "link", "set", "dev", self.pf_netdev, "name", name], check=False)
            return self.pf_netdev == name

        assert commands.wait(renamed), f"the PF's netdev is {self.pf_netdev}, not {name}"
        run(["ip", "link", "set", "dev", name, "up"])

    def plain(self, number: int) -> str:
        """The PCI address of a function without a PF (knob no_physfn), as a guest sees its VF."""
        return f"{self.pf[:7]}:{31 - number:02x}.0"

    # ---- a VF ----

    def pci(self, vf: int) -> str:
        """A VF's PCI address."""
        return os.path.basename(os.readlink(self.pf_path / f"virtfn{vf}"))

    def vf_path(self, vf: int) -> Path:
        return Path(DEVICES, self.pci(vf))

    def netdevs(self, vf: int, netns: str | None = None) -> list[str]:
        """The names of a VF's netdevs in one network namespace (init's unless named)."""
        if netns is None:
            return names(self.vf_path(vf) / "net")
        return sorted(each["ifname"] for each in links(netns) if each.get("parentdev") == self.pci(vf))

    def netdev(self, vf: int, netns: str | None = None) -> str:
        """The VF's one netdev there."""
        found = self.netdevs(vf, netns)
        assert len(found) == 1, f"VF {vf} has netdevs {found} in {netns or 'init'}"
        return found[0]

    def rdma(self, vf: int, netns: str | None = None) -> str | None:
        """The VF's RDMA device, if one network namespace (init's unless named) sees it."""
        if netns is None:
            return next(iter(names(self.vf_path(vf) / "infiniband")), None)
        name = self.rdma_anywhere(vf)
        return name if name in commands.rdma_names(netns) else None

    def rdma_anywhere(self, vf: int) -> str | None:
        """The VF's RDMA device by its uverbs device, which sysfs shows from every namespace."""
        for uverbs in names(self.vf_path(vf) / "infiniband_verbs"):
            return read(f"/sys/class/infiniband_verbs/{uverbs}/ibdev")
        return None

    def uverbs(self, vf: int) -> str:
        """The name of its uverbs device."""
        (uverbs,) = names(self.vf_path(vf) / "infiniband_verbs")
        return uverbs

    def node_guid(self, vf: int, netns: str | None = None) -> str:
        """As the VF itself has it, with colons; where it is not said, the namespace that holds it is looked for."""
        return self._guid(vf, "node_guid", netns)

    def port_guid(self, vf: int, netns: str | None = None) -> str:
        """The last eight bytes of GID 0 as the VF itself has it, with colons."""
        return self._guid(vf, "ports/1/gids/0", netns)[-23:]

    def _guid(self, vf: int, file: str, netns: str | None) -> str:
        for where in [netns] if netns else [None, *names("/run/netns")]:
            if name := self.rdma(vf, where):
                path = f"/sys/class/infiniband/{name}/{file}"
                return with_colons(read(path) if where is None else commands.output(["cat", path], netns=where))
        raise AssertionError(f"VF {vf} has no RDMA device{f' in {netns}' if netns else ''}")

    def port_state(self, vf: int) -> str:
        """State ("ACTIVE", "DOWN" …) of a VF whose RDMA device is in init."""
        return self.port(vf, "state").split()[-1]

    def port(self, vf: int, file: str, *, port: int = 1) -> str:
        """What sysfs says of a port of a VF whose RDMA device is in init."""
        return read(f"/sys/class/infiniband/{self.rdma(vf)}/ports/{port}/{file}")

    def driver(self, vf: int) -> str | None:
        try:
            return os.path.basename(os.readlink(self.vf_path(vf) / "driver"))
        except FileNotFoundError:
            return None

    def unbind(self, vf: int) -> str:
        """Its result: "OK" or the errno's name."""
        return write(f"{DRIVERS}/ib_qib/unbind", self.pci(vf))

    def bind(self, vf: int) -> str:
        return write(f"{DRIVERS}/ib_qib/bind", self.pci(vf))

    def rebind(self, vf: int) -> tuple[str, str]:
        return self.unbind(vf), self.bind(vf)

    def listed_vfs(self) -> list[int]:
        """The indexes of the VFs that the PF's netdev lists."""
        shown = read_json(["ip", "-j", "link", "show", "dev", self.pf_netdev])[0]
        return [each["vf"] for each in shown.get("vfinfo_list", [])]

    def vf_info(self, vf: int) -> dict[str, Any]:
        """The PF's view: `ip -j link`'s entry of the VF; see guids_at_pf and link_state for its parts."""
        shown = read_json(["ip", "-j", "link", "show", "dev", self.pf_netdev])[0]
        found: dict[str, Any] = next(each for each in shown["vfinfo_list"] if each["vf"] == vf)
        return found

    def link_state(self, vf: int) -> str:
        """At the PF: "auto", "enable" or "disable"."""
        return str(self.vf_info(vf)["link_state"])

    def guids_at_pf(self, vf: int) -> tuple[str, str]:
        """Node and port GUID that the PF holds for the VF; zeros until they were set since the driver came up."""
        shown = self.vf_info(vf)
        return str(shown.get("node guid", NO_GUID)).lower(), str(shown.get("port guid", NO_GUID)).lower()

    def sets_guid(self, vf: int, guid: str) -> None:
        """Both GUIDs, on the PF; the VF takes them when it is bound again."""
        for kind in ("node_guid", "port_guid"):
            run(["ip", "link", "set", "dev", self.pf_netdev, "vf", str(vf), kind, guid])

    def move_rdma(self, vf: int, netns: str) -> str:
        """Move a VF's RDMA device into a named namespace; its name."""
        name = self.rdma(vf)
        assert name, f"the RDMA device of VF {vf} is not in init"
        run(["rdma", "dev", "set", name, "netns", netns])
        return name

    def to_pod(self, vf: int, netns: str, ifname: str = "net1") -> None:
        """Move the RDMA device, then the netdev that the kernel made anew: in init (6.1, 6.12) or there (7.3)."""
        self.move_rdma(vf, netns)
        if self.netdevs(vf):
            run(["ip", "link", "set", "dev", self.netdev(vf), "netns", netns, "name", ifname])
        else:
            run(["ip", "-n", netns, "link", "set", "dev", self.netdev(vf, netns), "name", ifname])

    def packets_sent(self, vf: int) -> int:
        """What the PF counts for the VF."""
        shown = read_json(["ip", "-j", "-s", "link", "show", "dev", self.pf_netdev])[0]["vfinfo_list"]
        sent = next(each for each in shown if each["vf"] == vf)["stats"]["tx"]
        return int(sent.get("tx_packets", sent.get("packets", 0)))

    # ---- faults ----

    def knob(self, name: str, value: object) -> None:
        """Set a knob of the module (all PFs); it has its old value again when the test is over."""
        path = f"{KNOBS}/{name}"
        self._knobs.setdefault(name, read(path))
        result = write(path, value)
        assert result == "OK", f"knob {name}={value}: {result}"

    def restore_knobs(self) -> None:
        for name, value in self._knobs.items():
            write(f"{KNOBS}/{name}", value)
        self._knobs.clear()

    def wait(self, condition: Callable[[], T], timeout: float = 20) -> T:
        """Repeat until the condition holds; its last value, to be asserted."""
        return commands.wait(condition, timeout)

    def settled(self, *, timeout: float = 20) -> bool:
        """Wait until every VF has its driver, one netdev per port and one RDMA device in init."""
        ports = int(read(f"{KNOBS}/ports"))
        return commands.wait(
            lambda: all(len(self.netdevs(vf)) == ports and self.rdma(vf) for vf in range(self.numvfs)), timeout
        )


def rdma_mode() -> str:
    """Either "shared" or "exclusive"; `rdma -j system` of iproute2 6.1 prints plain text all the same."""
    return commands.output(["rdma", "system"]).split()[1]


def set_rdma_mode(mode: str) -> None:
    """Either "shared" or "exclusive"; EBUSY while any other namespace lives, and they die slowly."""

    def is_set() -> bool:
        return rdma_mode() == mode or run(["rdma", "system", "set", "netns", mode], check=False).returncode == 0

    assert commands.wait(is_set), f"RDMA network namespace mode is not {mode}: {rdma_mode()}"


def load(
    *,
    vfs: int = 4,
    total_vfs: int = 8,
    pfs: int = 1,
    preset: bool | int = False,
    mode: str = "shared",
    pf_name: str | None = "eth100",
    prefix: str = "mlx5_",
    **knobs: object,
) -> Hca:
    """Load the emulated HCA; the first PF, whose `pfs` lists all of them.

    `vfs` VFs are made on each PF. `preset` presets the VFs' GUIDs (a number: base + 256 * PF + VF), otherwise they
    are zero. The PFs' netdevs are called `pf_name` (eth100), eth101 … and are up; with None they keep ib0 ….
    """
    # a test that was given up may have left one behind
    unload()
    run(["modprobe", "-a", "ib_ipoib", "ib_uverbs", "ib_umad", "rdma_ucm"])
    set_rdma_mode(mode)
    base = PRESET_BASE if preset is True else int(preset)
    knobs = {"pfs": pfs, "total_vfs": total_vfs, "prefix": prefix, "vf_guid_base": base, **knobs}
    run(["modprobe", "ibemu", *(f"{name}={value}" for name, value in knobs.items())])
    hcas = [Hca(index, domain=int(str(knobs.get("domain", 1)))) for index in range(pfs)]
    stem, first = (pf_name.rstrip("0123456789"), pf_name) if pf_name else ("", "")
    for hca in hcas:
        hca.pfs = hcas
        assert commands.wait(partial(names, hca.pf_path / "net")), f"the PF {hca.pf} has no netdev"
        if pf_name:
            hca.rename_pf(pf_name if hca.index == 0 else f"{stem}{int(first[len(stem) :] or 0) + hca.index}")
        if vfs:
            result = hca.set_numvfs(vfs)
            assert result == "OK", f"sriov_numvfs {vfs} on {hca.pf}: {result}"
    if not any(name in knobs for name in ("fail_probe", "no_ipoib", "late_ms", "lose_netdev", "lose_rdma", "ethernet")):
        for hca in hcas:
            assert hca.settled(), f"the VFs of {hca.pf} did not appear"
    if Path("/run/udev/control").exists():
        run(["udevadm", "settle", "-t", "30"], check=False)
    return hcas[0]


def show(hca: Hca) -> None:
    """Tell a person what there is."""
    print(f"PF {hca.pf}: netdev {hca.pf_netdev}, RDMA device {hca.pf_rdma}; RDMA netns mode {rdma_mode()}")
    for vf in range(hca.numvfs):
        print(f"VF {vf} {hca.pci(vf)}: netdev {hca.netdev(vf)}, RDMA device {hca.rdma(vf)}, GUID {hca.port_guid(vf)}")
    print(f"knobs: {KNOBS}; pods: ip netns add NAME; `exit` ends the VM", flush=True)


def end_strays() -> None:
    """End the processes that live in other network namespaces: they would keep those alive."""
    own = os.readlink("/proc/self/ns/net")
    for pid in names("/proc"):
        try:
            if pid.isdigit() and os.readlink(f"/proc/{pid}/ns/net") != own:
                os.kill(int(pid), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue


def unload() -> None:
    """End every network namespace with its processes, unload the module, set the shared mode again."""
    end_strays()
    # `ip netns add` mounts the folder over itself: a name that was there before is mounted twice
    while run(["umount", "-R", "-l", "/run/netns"], check=False).returncode == 0:
        pass
    for name in names("/run/netns"):
        run(["umount", "-l", f"/run/netns/{name}"], check=False)
        Path("/run/netns", name).unlink(missing_ok=True)
    if Path("/sys/module/ibemu").exists():

        def gone() -> bool:
            return run(["rmmod", "ibemu"], check=False).returncode == 0

        if not commands.wait(gone):
            raise CommandFailed(f"rmmod ibemu: {commands.complaint(['rmmod', 'ibemu'])}")
        # what the test left in init under a name of its own would meet the next test
        for each in links():
            if each.get("linkinfo", {}).get("info_kind") in ("bond", "dummy", "veth", "bridge", "macvlan"):
                run(["ip", "link", "del", "dev", each["ifname"]], check=False)
    if Path("/sys/module/ib_core").exists():
        set_rdma_mode("shared")
