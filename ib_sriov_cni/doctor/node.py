"""Checks of the node around the plugin: its program, kubelet, the device plugin, the kernel. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.report import render_count, render_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Facts, Outcome

checks = Checks()
# Linux versions: the oldest that was tested, and those that brought what the check `kernel` describes.
OLDEST_TESTED = (4, 18)
RDMA_NAMESPACES, READS_VF_GUIDS, RETURNS_NETDEV, NETDEV_IN_POD = (5, 2), (5, 6), (5, 13), (6, 17)


@checks.add(
    "plugin",
    "The plugin in CNI_PATH is this one, in this version",
    "`ib-sriov install` puts it there by rename, even while it is in use. The Go ib-sriov-cni has the same file name; "
    "the doctor recognizes it by its build information. A version other than the doctor's means that an update is "
    "incomplete. If the runtime uses another folder (containerd: `bin_dir`, since 2.1 `bin_dirs`), pass it with "
    "`--cni-path`.",
)
def check_plugin(facts: Facts) -> Iterator[Outcome]:
    program = facts.node.plugin
    if program is None:
        yield fail(
            "ib-sriov is not in CNI_PATH", "ib-sriov install; or pass the runtime's folder (bin_dir) with --cni-path"
        )
    elif program.kind == "go":
        yield fail(
            f"{program.path} is the Go ib-sriov-cni",
            "ib-sriov install replaces it and handles the DEL of its pods",
        )
    elif program.fault:
        yield fail(f"{program.path}: {program.fault}", "ib-sriov install replaces it")
    elif program.slow:
        yield warn(
            f"{program.path} version: {program.slow}",
            f"time it: if `{program.path} version` hangs, look at its disk (dmesg); else use a larger --timeout",
        )
    elif program.kind == "ours" and program.version != facts.all.own_version:
        yield warn(
            f"{program.path} is version {program.version}, the doctor is {facts.all.own_version}",
            "run ib-sriov install from the newer one",
        )
    elif program.kind == "ours":
        yield ok(f"{program.path} is version {program.version}")
    else:
        yield skip(
            f"cannot tell what {program.path} is", "run the doctor on the node itself; or is it another program?"
        )


@checks.add(
    "kubelet",
    "kubelet accepts device plugins, and one is registered",
    "Each device plugin has a socket in /var/lib/kubelet/plugins_registry, or next to kubelet's in "
    "/var/lib/kubelet/device-plugins. If there is none, the "
    "SR-IOV device plugin's DaemonSet does not run on this node, or its configuration selects none of the devices (see "
    "its log, and /etc/pcidp/config.json).",
)
def check_kubelet(facts: Facts) -> Iterator[Outcome]:
    device_plugin = facts.node.device_plugin
    if not device_plugin.kubelet:
        yield ok("no kubelet on this node, so no device plugin is needed")
        return
    sockets = [name for name in device_plugin.sockets if not name.startswith("kubelet")]
    if "kubelet.sock" not in device_plugin.sockets:
        yield fail("kubelet's socket for device plugins does not exist", "is kubelet running? systemctl status kubelet")
    elif not sockets:
        yield warn(
            "no device plugin has a socket", "is the SR-IOV device plugin's pod running on this node? See its log"
        )
    else:
        yield ok(f"device plugins: {render_names(sockets)}")


@checks.add(
    "device-plugin",
    "kubelet offers the VFs as a resource",
    "kubelet's checkpoint lists the devices of each resource. A VF that is in none is never given to a pod: check the "
    "selectors in the SR-IOV device plugin's ConfigMap (vendors, devices, drivers, pfNames, linkTypes infiniband, "
    "isRdma). Restart its pod after changing sriov_numvfs: it reads the devices only at start.",
)
def check_resources(facts: Facts) -> Iterator[Outcome]:
    device_plugin = facts.node.device_plugin
    vfs = {str(vf.pci) for hca in facts.hca.groups for vf in hca.vfs}
    if not device_plugin.kubelet or not vfs:
        return
    if device_plugin.resources is None:
        yield skip(f"kubelet's resources: {device_plugin.reason}", "" if facts.node.root else "run as root")
        return
    ours = {name: vfs & set(devices) for name, devices in device_plugin.resources if vfs & set(devices)}
    missing = sorted(vfs - set().union(*ours.values()))
    for name, devices in device_plugin.resources:
        gone = sorted([device for device in devices if name in ours and device not in vfs])
        if gone:
            yield warn(
                f"{name} has devices that are not VFs of this node: {render_names(gone)}",
                "sriov_numvfs was changed: restart the SR-IOV device plugin's pod",
            )
    hint = "check the selectors of the SR-IOV device plugin; restart its pod after changing sriov_numvfs"
    if not ours:
        yield fail(f"none of {len(vfs)} VFs is in any of kubelet's resources", hint)
    elif missing:
        yield warn(f"VFs in none of kubelet's resources: {render_names(missing)}", hint)
    else:
        yield ok(", ".join([f"{name}: {len(devices)} VFs" for name, devices in sorted(ours.items())]))


@checks.add(
    "devinfo",
    "The device plugin's device information is current",
    "/run/k8s.cni.cncf.io/devinfo/dp has the name that each VF's RDMA device had when it was allocated. A rebind may "
    "have changed it; the plugin corrects Multus's copy at every ADD if the configuration declares the capability "
    "CNIDeviceInfoFile.",
)
def check_devinfo(facts: Facts) -> Iterator[Outcome]:
    names = {str(vf.pci): vf.rdma for hca in facts.hca.groups for vf in hca.vfs}
    found = [item for item in facts.node.device_plugin.devinfo if item[1] in names]
    stale = [item for item in found if item[2] and names[item[1]] and item[2] != names[item[1]]]
    for name, pci, rdma in stale:
        yield note(
            f"{name} says {rdma}, but VF {pci} is now {names[pci]}",
            'harmless if the network declares "capabilities": {"CNIDeviceInfoFile": true}',
        )
    if not stale:
        yield ok(f"{render_count(len(found), 'device information file')}, all current")


@checks.add(
    "kernel",
    "The kernel supports what the configurations need",
    "RDMA namespaces exist since Linux 5.2. The GUIDs set on a PF can be read back since 5.6, before that only from "
    "OFED's files (`/sys/bus/pci/devices/<PF>/sriov`). Since 5.13 the kernel returns a VF's netdev to the host when "
    "its namespace ends; before that, a release rebinds the driver. Since 5.14 a namespace has a cookie that "
    "identifies it for certain. Since 6.17 the netdev of a moved RDMA device appears in the pod at once.",
)
def check_kernel(facts: Facts) -> Iterator[Outcome]:
    kernel, release = facts.node.kernel, facts.node.release
    if kernel == (0, 0):
        yield skip("the kernel's version is not known")
        return
    isolated = [network.name for network in facts.config.networks if network.isolation]
    ofed = [hca for hca in facts.hca.hcas if hca.ofed]
    ways = "the PF's VFs are configured through OFED's files" if ofed else "the PF's VFs are configured by netlink"
    bad = False
    if kernel < OLDEST_TESTED:
        bad = True
        yield warn(f"Linux {release} is older than any version this was tested on", "use 4.18 or later")
    if kernel < RDMA_NAMESPACES and isolated:
        bad = True
        yield fail(f"Linux {release} has no RDMA namespaces, which {render_names(isolated)} needs", "use 5.2 or later")
    if kernel < READS_VF_GUIDS and facts.hca.hcas and not ofed:
        bad = True
        yield warn(
            f"Linux {release} does not report the GUIDs set on the PF, and there are no OFED files",
            "use 5.6 or later, or OFED: otherwise DEL may not know a VF's old GUID",
        )
    if bad:
        return
    if kernel < RETURNS_NETDEV:
        yield note(
            f"Linux {release}: a netdev may vanish with its pod's namespace; {ways}",
            "nothing to do: the plugin then rebinds the VF. Since 5.13 the kernel returns the netdev",
        )
    else:
        where = "in the pod" if kernel >= NETDEV_IN_POD else "on the host, and the plugin moves it"
        yield ok(f"Linux {release}: {ways}; a moved RDMA device's netdev appears {where}")
