"""Door to sysfs: PCI functions with their drivers, netdevs and RDMA devices.

The tree below `root` (tests make one of their own)::

    bus/pci/devices/<bdf>/physfn            -> the PF, on VFs only
                         /virtfn<N>         -> VF N, on PFs only
                         /sriov_offset, sriov_stride
                         /driver            -> bus/pci/drivers/<name>, absent when unbound
                         /net/<netdev>      only those in the namespace that sysfs was mounted in
                         /infiniband/<rdma> likewise
                         /infiniband_verbs/uverbs<M>   visible in every namespace
                         /infiniband_mad/umad<M>, issm<M>   likewise
    bus/pci/drivers/<name>/{bind,unbind}
    class/infiniband_verbs/uverbs<M>/ibdev  the RDMA device's name, visible in every namespace
    class/infiniband_mad/umad<M>, issm<M>

Sources: Documentation/ABI/testing/sysfs-bus-pci, drivers/pci/iov.c, drivers/infiniband/core/{sysfs,uverbs_main,
user_mad}.c.
"""

from __future__ import annotations

import errno
import os

from ib_sriov_cni.core.errors import DeviceUnusable, KernelRefused
from ib_sriov_cni.core.values import LONE, OTHER, PHYSICAL, VIRTUAL, Guid, PciAddress, Port, RdmaDevice, VfFunction

KERNEL_LOG = "the driver's reason is in the kernel log (dmesg)"
MELLANOX = "0x15b3"
VF_IDS = frozenset(("1002", "1004", "1012", "1014", "1016", "1018", "101a", "101c", "101e", "a2d3"))
NETWORK_CLASS = "0x02"  # network controllers; InfiniBand is 0x0207, or 0x0c06 before ConnectX-3
INFINIBAND_CLASSES = ("0x0207", "0x0c06")
MACHINES = ("QEMU", "KVM", "Virtual Machine", "VMware", "OpenStack", "Google Compute Engine")  # in DMI


class Sysfs:
    """A sysfs; "its namespace" is the network namespace that it was mounted in."""

    def __init__(self, root: str = "/sys", proc_root: str = "/proc") -> None:
        """`root`: where it is mounted. `proc_root`: where the processor says whether this is a virtual machine."""
        self._root = root
        self._proc = proc_root
        self._devices = f"{root}/bus/pci/devices"

    def _link(self, path: str) -> str:
        try:
            return os.path.basename(os.readlink(path))
        except OSError:
            return ""

    def exists(self, pci: PciAddress) -> bool:
        """Return whether there is a PCI function of that address."""
        return os.path.isdir(f"{self._devices}/{pci}")

    def is_missing(self, pci: PciAddress) -> bool:
        """Return whether there is certainly no PCI function of that address: False too if sysfs cannot be read."""
        try:
            os.lstat(f"{self._devices}/{pci}")
        except FileNotFoundError:
            return os.path.isdir(self._devices)
        except OSError:
            pass
        return False

    def read_pf(self, pci: PciAddress) -> PciAddress | None:
        """Return a VF's PF, None for a function that has none here. DeviceUnusable (101) if there is no function."""
        device = f"{self._devices}/{pci}"
        pf = self._link(f"{device}/physfn")
        if not pf and not os.path.isdir(device):
            raise DeviceUnusable(
                f"deviceID {pci}: there is no such PCI device",
                "were the VFs removed (sriov_numvfs) after the device plugin had found them? then restart it",
            )
        return PciAddress(pf) if pf else None

    def read_kind(self, pci: PciAddress) -> str:
        """Return what a function is: VIRTUAL, LONE, PHYSICAL or OTHER. DeviceUnusable (101) if there is no function."""
        if self.read_pf(pci) is not None:
            return VIRTUAL
        return _classify(f"{self._devices}/{pci}", self._root, self._proc)

    def read_function(self, pci: PciAddress) -> VfFunction:
        """Return a VF and its PF, or a function without a PF. Raises DeviceUnusable (101) if there is no function."""
        pf = self.read_pf(pci)
        if pf is None:
            driver = self.read_driver(pci)
            return VfFunction(
                pci=pci, pf=None, index=-1, driver=driver, pf_driver="", pf_netdev="", kind=self.read_kind(pci)
            )
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

    def read_lone_vfs(self) -> list[PciAddress]:
        """Return the InfiniBand VFs without a PF here, sorted, whatever their driver and wherever their devices are."""
        names = [name for name in list_folder(self._devices) if _is_infiniband(f"{self._devices}/{name}")]
        return [PciAddress(name) for name in names if self.read_kind(PciAddress(name)) == LONE]

    def read_guids(self) -> dict[Guid, str]:
        """Return the node and port GUIDs of the RDMA devices in its namespace, each with the device's name."""
        found: dict[Guid, str] = {}
        for name in list_folder(f"{self._root}/class/infiniband"):
            folder = f"{self._root}/class/infiniband/{name}"
            texts = (read_attribute(f"{folder}/node_guid"), read_attribute(f"{folder}/ports/1/gids/0")[20:])
            found |= {guid: name for guid in map(Guid.parse_or_none, texts) if guid}
        return found

    def read_pfs(self) -> list[PciAddress]:
        """Return the PFs that support SR-IOV and have an RDMA device in its namespace, sorted."""
        found = set()
        for name in list_folder(f"{self._root}/class/infiniband"):
            pci = self._link(f"{self._root}/class/infiniband/{name}/device")
            if os.path.exists(f"{self._devices}/{pci}/sriov_totalvfs"):
                found.add(PciAddress(pci))
        return sorted(found)

    def read_vfs(self, pf: PciAddress) -> list[PciAddress]:
        """Return a PF's VFs, sorted by VF index."""
        names = [name for name in list_folder(f"{self._devices}/{pf}") if name.startswith("virtfn")]
        names.sort(key=lambda name: int(name[6:]))
        return [PciAddress(self._link(f"{self._devices}/{pf}/{name}")) for name in names]

    def _vf_index(self, pci: str, pf: str) -> int:
        """Return N of virtfnN, computed from the routing IDs (SR-IOV specification 2.1.2) and checked in sysfs."""
        offset = read_attribute(f"{self._devices}/{pf}/sriov_offset")
        stride = read_attribute(f"{self._devices}/{pf}/sriov_stride")
        if offset.isdigit() and stride.isdigit() and int(stride):
            index = (_routing_id(pci) - _routing_id(pf) - int(offset)) // int(stride)
            if self._link(f"{self._devices}/{pf}/virtfn{index}") == pci:
                return index
        for name in list_folder(f"{self._devices}/{pf}"):
            if name.startswith("virtfn") and self._link(f"{self._devices}/{pf}/{name}") == pci:
                return int(name[6:])
        raise DeviceUnusable(
            f"deviceID {pci}: its PF {pf} does not list it", "are VFs being made or removed? try again"
        )

    def read_driver(self, pci: PciAddress) -> str:
        """Return the name of the driver that the function is bound to; empty if there is none."""
        return self._link(f"{self._devices}/{pci}/driver")

    def read_netdev(self, pci: PciAddress) -> str:
        """Return the name of the function's netdev in its namespace (not a P_Key child); empty if there is none."""
        return self._read_netdev(pci)[0]

    def read_pf_netdev(self, pci: PciAddress) -> str | None:
        """Return the name of the netdev of a VF's PF, "" if it is not in its namespace; None for a VF without a PF."""
        pf = self._link(f"{self._devices}/{pci}/physfn")
        return self.read_netdev(PciAddress(pf)) if pf else None

    def _read_netdev(self, pci: PciAddress) -> tuple[str, int]:
        """Return name and ifindex."""
        folder = f"{self._devices}/{pci}/net"
        for name in self.read_netdevs(pci):
            # A child's iflink is its parent (ipoib_get_iflink). It can be in this namespace without the parent.
            index = read_attribute(f"{folder}/{name}/ifindex")
            if read_attribute(f"{folder}/{name}/iflink") == index:
                return name, int(index) if index.isdigit() else 0
        return "", 0

    def read_netdevs(self, pci: PciAddress) -> list[str]:
        """Return the names of the function's netdevs in its namespace, P_Key children included."""
        return list_folder(f"{self._devices}/{pci}/net")

    def read_rdma_name(self, pci: PciAddress) -> str:
        """Return the present name of the function's RDMA device, in whatever namespace; empty if it has none."""
        device = f"{self._devices}/{pci}"
        return self._rdma_name(device)[0] or next(iter(list_folder(f"{device}/infiniband")), "")

    def _rdma_name(self, device: str) -> tuple[str, tuple[str, ...]]:
        """Return name and uverbs devices, which every namespace sees; both empty without ib_uverbs."""
        uverbs = list_folder(f"{device}/infiniband_verbs")
        return read_attribute(f"{self._root}/class/infiniband_verbs/{uverbs[0]}/ibdev") if uverbs else "", (*uverbs,)

    def read_char_devices(self, pci: PciAddress) -> tuple[str, ...]:
        """Return the function's character devices (uverbsN, issmN, umadN), in whatever namespace its RDMA device is."""
        device = f"{self._devices}/{pci}"
        return (*list_folder(f"{device}/infiniband_verbs"), *list_folder(f"{device}/infiniband_mad"))

    def read_all_char_devices(self) -> tuple[str, ...]:
        """Return the character devices of all RDMA devices, in whatever namespaces they are."""
        folder = f"{self._root}/class"
        return (*list_folder(f"{folder}/infiniband_verbs"), *list_folder(f"{folder}/infiniband_mad"))

    def read_netdev_function(self, name: str) -> PciAddress | None:
        """Return the PCI function of a netdev in its namespace; None if it has none."""
        return self._function_of(f"net/{name}")

    def read_rdma_function(self, name: str) -> PciAddress | None:
        """Return the PCI function of an RDMA device in its namespace; None if it has none."""
        return self._function_of(f"infiniband/{name}")

    def _function_of(self, device: str) -> PciAddress | None:
        pci = self._link(f"{self._root}/class/{device}/device")
        return PciAddress(pci) if pci and os.path.isdir(f"{self._devices}/{pci}") else None

    def read_rdma(self, pci: PciAddress) -> RdmaDevice | None:
        """Return the function's RDMA device, in whatever namespace; with GUIDs only if it is in its namespace."""
        device = f"{self._devices}/{pci}"
        name, uverbs = self._rdma_name(device)
        char_devices = (*uverbs, *list_folder(f"{device}/infiniband_mad"))
        here = list_folder(f"{device}/infiniband")
        name = name or (here[0] if here else "")
        if not name:
            return None
        if name not in here:
            return RdmaDevice(name=name, char_devices=char_devices, node_guid=None, port_guid=None)
        node = read_attribute(f"{device}/infiniband/{name}/node_guid")
        gid = read_attribute(f"{device}/infiniband/{name}/ports/1/gids/0")
        return RdmaDevice(
            name=name,
            char_devices=char_devices,
            node_guid=Guid.parse_or_none(node),
            port_guid=Guid.parse_or_none(gid[20:]),
        )

    def read_counts(self, pf: PciAddress) -> tuple[int, int]:
        """Return how many VFs a PF has, and how many it can have."""
        texts = [read_attribute(f"{self._devices}/{pf}/{name}") for name in ("sriov_numvfs", "sriov_totalvfs")]
        return int(texts[0]) if texts[0].isdigit() else 0, int(texts[1]) if texts[1].isdigit() else 0

    def read_port_state(self, rdma: str) -> str:
        """Return the state of an RDMA device's first port (ACTIVE …), which makes the driver ask the firmware."""
        # The text is "4: ACTIVE" (state_show in drivers/infiniband/core/sysfs.c).
        return read_attribute(f"{self._root}/class/infiniband/{rdma}/ports/1/state").partition(": ")[2]

    def read_link_layers(self, rdma: str) -> tuple[str, ...]:
        """Return the link layer of each port of an RDMA device in its namespace: InfiniBand, Ethernet."""
        folder = f"{self._root}/class/infiniband/{rdma}/ports"
        return tuple([read_attribute(f"{folder}/{port}/link_layer") for port in list_folder(folder)])

    def has_module(self, name: str) -> bool:
        """Return whether a kernel module is there, loaded or built in."""
        return os.path.isdir(f"{self._root}/module/{name}")

    def read_port(self, rdma: str) -> Port:
        """Return the first port of an RDMA device in its namespace."""
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
        """Return the only driver that may bind to this function (driver_override); empty if any may."""
        found = read_attribute(f"{self._devices}/{pci}/driver_override")
        return "" if found == "(null)" else found

    def probes_automatically(self, pf: PciAddress) -> bool:
        """Return whether new VFs of a PF are bound to a driver automatically (sriov_drivers_autoprobe)."""
        return read_attribute(f"{self._devices}/{pf}/sriov_drivers_autoprobe") != "0"

    def is_bindable(self, pci: PciAddress, driver: str) -> bool:
        """Return whether the kernel would let that driver have the VF, whatever its probe may say.

        driver_override admits one driver alone (pci_match_device). While it is empty and sriov_drivers_autoprobe of the
        PF is 0, a VF gets no driver at all, not even by the driver's bind file (pci_device_can_probe).
        """
        override, pf = self.read_override(pci), self.read_pf(pci)
        return override == driver if override else pf is None or self.probes_automatically(pf)

    def set_override(self, pci: PciAddress, driver: str) -> None:
        """Set driver_override, with "" to none. Raises KernelRefused (102); kernels before 3.16 have no such file."""
        path = f"{self._devices}/{pci}/driver_override"
        try:
            write_attribute(path, f"{driver}\n")
        except OSError as fault:
            operation = f"set driver_override {driver}" if driver else "clear driver_override"
            raise KernelRefused(f"{operation} of", f"VF {pci}", fault.errno or errno.EIO) from None

    def unbind(self, pci: PciAddress) -> None:
        """Unbind the VF from its driver; does nothing if it has none. Raises KernelRefused (102)."""
        driver = self.read_driver(pci)
        if driver:
            self._write("unbind", pci, driver)

    def bind(self, pci: PciAddress, driver: str) -> None:
        """Bind the VF to a driver; does nothing if it is bound to it. Raises KernelRefused (102).

        A probe may fail although the write succeeds, so the driver link is read again.
        """
        self._write("bind", pci, driver)
        if self.read_driver(pci) != driver:
            raise KernelRefused(f"bind to {driver}", f"VF {pci}", errno.ENODEV, details=KERNEL_LOG)

    def _write(self, operation: str, pci: PciAddress, driver: str) -> None:
        try:
            write_attribute(f"{self._root}/bus/pci/drivers/{driver}/{operation}", pci)
        except OSError as fault:
            # Somebody else may have done it.
            bound = self.read_driver(pci)
            if (operation == "unbind" and not bound) or (operation == "bind" and bound == driver):
                return
            words = f"{operation} {'from' if operation == 'unbind' else 'to'} {driver}"
            raise KernelRefused(words, f"VF {pci}", fault.errno or errno.EIO, details=KERNEL_LOG) from None


def read_attribute(path: str) -> str:
    """Return an attribute's text without white space at its ends; empty if it cannot be read."""
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


def write_attribute(path: str, text: str) -> None:
    """Write an attribute. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def list_folder(path: str) -> list[str]:
    """Return the names in a folder, sorted; none if it cannot be read."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _classify(device: str, sysfs: str, proc: str) -> str:
    """Return LONE, PHYSICAL or OTHER for the function in the folder `device`, which has no physfn link.

    In a virtual machine that got a VF, nothing names its PF. A function with the SR-IOV capability is a PF: the kernel
    makes sriov_totalvfs and sriov_numvfs for it. One without is a VF if its PCI device ID is that of a VF. Otherwise it
    is a whole function without SR-IOV: in a virtual machine it is all that there is, and is treated like a VF, because
    hypervisors hide the capability; on hardware it is a PF whose firmware has SR-IOV disabled, and belongs to the host.

    Sources: drivers/pci/iov.c (sriov_pf_attrs_are_visible); QEMU, hw/vfio/pci.c (vfio_add_ext_cap);
    drivers/net/ethernet/mellanox: mlx5/core/main.c and mlx4/main.c, the tables of devices; systemd, src/basic/virt.c.
    """
    if os.path.exists(f"{device}/sriov_totalvfs") or os.path.exists(f"{device}/sriov_numvfs"):
        return PHYSICAL
    if read_attribute(f"{device}/vendor") == MELLANOX and read_attribute(f"{device}/device")[2:] in VF_IDS:
        return LONE
    found = read_attribute(f"{device}/class")
    if not found.startswith((NETWORK_CLASS, *INFINIBAND_CLASSES)):
        return OTHER
    return LONE if _is_virtual_machine(sysfs, proc) else PHYSICAL


def _is_infiniband(device: str) -> bool:
    """Return whether the function in the folder `device` is an InfiniBand controller."""
    return read_attribute(f"{device}/class").startswith(INFINIBAND_CLASSES)


def _is_virtual_machine(sysfs: str, proc: str) -> bool:
    """Return whether this is a virtual machine: on x86 a flag of the processor, elsewhere the machine's maker."""
    flags = [line for line in read_attribute(f"{proc}/cpuinfo").splitlines() if line.startswith("flags")]
    if flags:
        return "hypervisor" in flags[0].split()
    made = " ".join([read_attribute(f"{sysfs}/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")])
    return any(name in made for name in MACHINES)


def _routing_id(pci: str) -> int:
    _domain, bus, rest = pci.split(":")
    slot, function = rest.split(".")
    return int(bus, 16) << 8 | int(slot, 16) << 3 | int(function, 16)


def _number(text: str) -> int:
    """Return the number in `0x1a`; 0 for any other text."""
    try:
        return int(text, 0)
    except ValueError:
        return 0
