"""Door to sysfs: PCI functions, their drivers, and which netdevs and RDMA devices hang on them.

The tree, below `root` (tests hand in a made one)::

    bus/pci/devices/<bdf>/physfn            -> the PF, on VFs only
                         /virtfn<N>         -> VF N, on PFs only
                         /sriov_offset, sriov_stride
                         /driver            -> bus/pci/drivers/<name>, absent when unbound
                         /net/<netdev>      only those of the namespace sysfs was mounted in
                         /infiniband/<rdma> likewise
                         /infiniband_verbs/uverbs<M>   from every namespace
    bus/pci/drivers/<name>/{bind,unbind}
    class/infiniband_verbs/uverbs<M>/ibdev  the RDMA device's name, from every namespace

Sources: Documentation/ABI/testing/sysfs-bus-pci, drivers/pci/iov.c, drivers/infiniband/core/{sysfs,uverbs_main}.c.
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import DeviceUnusable, KernelRefused
from ib_sriov_cni.core.values import Guid, PciAddress, Port, RdmaDevice, VfFunction


class Sysfs:
    """sysfs at `root`."""

    def __init__(self, root: str = "/sys") -> None:
        """Use another root for a made tree."""
        self._root = root
        self._devices = f"{root}/bus/pci/devices"

    def _link(self, path: str) -> str:
        try:
            return os.path.basename(os.readlink(path))
        except OSError:
            return ""

    def _list(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []

    def exists(self, pci: PciAddress) -> bool:
        """Whether a function of that address is there."""
        return os.path.isdir(f"{self._devices}/{pci}")

    def read_pf(self, pci: PciAddress) -> PciAddress:
        """Give a VF's PF. Raises DeviceUnusable (101) if the VF is absent or is none."""
        device = f"{self._devices}/{pci}"
        pf = self._link(f"{device}/physfn")
        if pf:
            return PciAddress(pf)
        if not os.path.isdir(device):
            raise DeviceUnusable(
                f"deviceID {pci}: there is no such PCI device",
                "are the VFs still there (sriov_numvfs)? does the device plugin know?",
            )
        kind = "a physical function" if os.path.exists(f"{device}/sriov_numvfs") else "no SR-IOV function"
        raise DeviceUnusable(f"deviceID {pci} is {kind}, not a VF", "only a VF can be given to a pod")

    def read_function(self, pci: PciAddress) -> VfFunction:
        """Read a VF and its PF. Raises DeviceUnusable (101) if it is absent or no VF."""
        pf = self.read_pf(pci)
        pf_netdev, pf_index = self._read_netdev(pf)
        return VfFunction(
            pci=pci,
            pf=pf,
            index=self._vf_index(pci, pf),
            driver=self.read_driver(pci),
            pf_driver=self._link(f"{self._devices}/{pf}/driver"),
            pf_netdev=pf_netdev,
            pf_index=pf_index,
        )

    def read_guids(self) -> dict[Guid, str]:
        """Give node and port GUIDs of the RDMA devices in this sysfs's namespace, with the device's name."""
        found: dict[Guid, str] = {}
        for name in self._list(f"{self._root}/class/infiniband"):
            folder = f"{self._root}/class/infiniband/{name}"
            texts = (read_attribute(f"{folder}/node_guid"), read_attribute(f"{folder}/ports/1/gids/0")[20:])
            found |= {guid: name for guid in (_guid(text) for text in texts) if guid}
        return found

    def read_pfs(self) -> list[PciAddress]:
        """Give the PFs that have an RDMA device in this sysfs's namespace and can do SR-IOV, in order."""
        found = set()
        for name in self._list(f"{self._root}/class/infiniband"):
            pci = self._link(f"{self._root}/class/infiniband/{name}/device")
            if os.path.exists(f"{self._devices}/{pci}/sriov_totalvfs"):
                found.add(PciAddress(pci))
        return sorted(found)

    def read_vfs(self, pf: PciAddress) -> list[PciAddress]:
        """Give a PF's VFs, by index."""
        names = [name for name in self._list(f"{self._devices}/{pf}") if name.startswith("virtfn")]
        names.sort(key=lambda name: int(name[6:]))
        return [PciAddress(self._link(f"{self._devices}/{pf}/{name}")) for name in names]

    def _vf_index(self, pci: str, pf: str) -> int:
        """Compute N of virtfnN from the routing IDs (SR-IOV specification 2.1.2) and ask sysfs if it is so."""
        offset = read_attribute(f"{self._devices}/{pf}/sriov_offset")
        stride = read_attribute(f"{self._devices}/{pf}/sriov_stride")
        if offset.isdigit() and stride.isdigit() and int(stride):
            index = (_routing_id(pci) - _routing_id(pf) - int(offset)) // int(stride)
            if self._link(f"{self._devices}/{pf}/virtfn{index}") == pci:
                return index
        for name in self._list(f"{self._devices}/{pf}"):
            if name.startswith("virtfn") and self._link(f"{self._devices}/{pf}/{name}") == pci:
                return int(name[6:])
        raise DeviceUnusable(f"deviceID {pci}: its PF {pf} does not list it", "are the VFs just being removed?")

    def read_driver(self, pci: PciAddress) -> str:
        """Give the name of the bound driver, empty if there is none."""
        return self._link(f"{self._devices}/{pci}/driver")

    def read_netdev(self, pci: PciAddress) -> str:
        """Give the function's netdev seen in the namespace of this sysfs; not a P_Key child; empty if none."""
        return self._read_netdev(pci)[0]

    def _read_netdev(self, pci: PciAddress) -> tuple[str, int]:
        """Give its name and its number."""
        folder = f"{self._devices}/{pci}/net"
        for name in self.read_netdevs(pci):
            # A child's lower interface is its parent (ipoib_get_iflink); it may be here while that is in a pod.
            index = read_attribute(f"{folder}/{name}/ifindex")
            if read_attribute(f"{folder}/{name}/iflink") == index:
                return name, int(index) if index.isdigit() else 0
        return "", 0

    def read_netdevs(self, pci: PciAddress) -> list[str]:
        """Give the function's netdevs seen in the namespace of this sysfs, P_Key children among them."""
        return self._list(f"{self._devices}/{pci}/net")

    def read_rdma_name(self, pci: PciAddress) -> str:
        """Give the name that the function's RDMA device has now, wherever it is; empty if it has none."""
        device = f"{self._devices}/{pci}"
        return self._rdma_name(device)[0] or next(iter(self._list(f"{device}/infiniband")), "")

    def _rdma_name(self, device: str) -> tuple[str, str]:
        """Give name and uverbs device, which is seen from every namespace; both empty without ib_uverbs."""
        uverbs = next(iter(self._list(f"{device}/infiniband_verbs")), "")
        return read_attribute(f"{self._root}/class/infiniband_verbs/{uverbs}/ibdev") if uverbs else "", uverbs

    def read_netdev_function(self, name: str) -> PciAddress | None:
        """Give the function of a netdev in the namespace of this sysfs; None if it hangs on none."""
        return self._function_of(f"net/{name}")

    def read_rdma_function(self, name: str) -> PciAddress | None:
        """Give the function of an RDMA device in the namespace of this sysfs; None if it hangs on none."""
        return self._function_of(f"infiniband/{name}")

    def _function_of(self, device: str) -> PciAddress | None:
        pci = self._link(f"{self._root}/class/{device}/device")
        return PciAddress(pci) if pci and os.path.isdir(f"{self._devices}/{pci}") else None

    def read_rdma(self, pci: PciAddress) -> RdmaDevice | None:
        """Give the function's RDMA device, wherever it is; its GUIDs only if it is in this sysfs's namespace."""
        device = f"{self._devices}/{pci}"
        name, uverbs = self._rdma_name(device)
        here = self._list(f"{device}/infiniband")
        name = name or (here[0] if here else "")
        if not name:
            return None
        if name not in here:
            return RdmaDevice(name=name, uverbs=uverbs, node_guid=None, port_guid=None)
        node = read_attribute(f"{device}/infiniband/{name}/node_guid")
        gid = read_attribute(f"{device}/infiniband/{name}/ports/1/gids/0")
        return RdmaDevice(name=name, uverbs=uverbs, node_guid=_guid(node), port_guid=_guid(gid[20:]))

    def read_counts(self, pf: PciAddress) -> tuple[int, int]:
        """Give how many VFs a PF has, and how many it can have."""
        texts = [read_attribute(f"{self._devices}/{pf}/{name}") for name in ("sriov_numvfs", "sriov_totalvfs")]
        return int(texts[0]) if texts[0].isdigit() else 0, int(texts[1]) if texts[1].isdigit() else 0

    def read_port_state(self, rdma: str) -> str:
        """Give the state of an RDMA device's first port (ACTIVE …): one question to the firmware."""
        # A number, a colon, then the word (drivers/infiniband/core/sysfs.c).
        return read_attribute(f"{self._root}/class/infiniband/{rdma}/ports/1/state").partition(": ")[2]

    def read_port(self, rdma: str) -> Port:
        """Give what sysfs says of the first port of an RDMA device in this sysfs's namespace."""
        folder = f"{self._root}/class/infiniband/{rdma}/ports/1"
        lids = [read_attribute(f"{folder}/{name}") for name in ("lid", "sm_lid")]
        return Port(
            state=self.read_port_state(rdma),
            physical=read_attribute(f"{folder}/phys_state").partition(": ")[2],
            rate=read_attribute(f"{folder}/rate"),
            link_layer=read_attribute(f"{folder}/link_layer"),
            lid=_number(lids[0]),
            sm_lid=_number(lids[1]),
        )

    def read_override(self, pci: PciAddress) -> str:
        """Give the one driver that may have this function, empty if any may (driver_override)."""
        found = read_attribute(f"{self._devices}/{pci}/driver_override")
        return "" if found == "(null)" else found

    def probes_automatically(self, pf: PciAddress) -> bool:
        """Whether a PF's VFs are given to a driver as they appear (sriov_drivers_autoprobe)."""
        return read_attribute(f"{self._devices}/{pf}/sriov_drivers_autoprobe") != "0"

    def unbind(self, pci: PciAddress) -> None:
        """Take the VF from its driver; one that has none is fine (ENODEV)."""
        driver = self.read_driver(pci)
        if driver:
            self._write("unbind", pci, driver)

    def bind(self, pci: PciAddress, driver: str) -> None:
        """Give the VF to a driver; already bound is fine. The link decides: a probe may fail quietly."""
        self._write("bind", pci, driver)
        if self.read_driver(pci) != driver:
            raise KernelRefused(f"bind to {driver}", f"VF {pci}", errno.ENODEV, details="see the kernel log")

    def _write(self, operation: str, pci: PciAddress, driver: str) -> None:
        path = f"{self._root}/bus/pci/drivers/{driver}/{operation}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, pci.encode())
            finally:
                os.close(fd)
        except OSError as fault:
            # Somebody was faster: unbound already, or bound already.
            bound = self.read_driver(pci)
            if (operation == "unbind" and not bound) or (operation == "bind" and bound == driver):
                return
            words = f"{operation} {'from' if operation == 'unbind' else 'to'} {driver}"
            hint = "the driver's reason is in the kernel log (dmesg)"
            raise KernelRefused(words, f"VF {pci}", fault.errno or errno.EIO, details=hint) from None


def read_attribute(path: str) -> str:
    """Give an attribute's text, empty where there is none or its device is just going."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 4096).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(fd)


def _routing_id(pci: str) -> int:
    _domain, bus, rest = pci.split(":")
    slot, function = rest.split(".")
    return int(bus, 16) << 8 | int(slot, 16) << 3 | int(function, 16)


def _number(text: str) -> int:
    """Read `0x1a`; 0 for what is none."""
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _guid(text: str) -> Guid | None:
    try:
        return Guid.parse(text)
    except ValueError:
        return None
