"""Checks of the node around the plugin: its program, kubelet and the device plugin, the kernel. No I/O."""

from __future__ import annotations

from ib_sriov_cni.doctor.check import Checks, fail, note, ok, skip, warn
from ib_sriov_cni.doctor.report import shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ib_sriov_cni.doctor.check import Outcome, Seen

checks = Checks()
OLDEST = (4, 18)
READ_BACK, NAMESPACES, COMES_HOME, NEW_NETDEV = (5, 6), (5, 2), (5, 13), (6, 17)


@checks.add(
    "plugin",
    "The plugin is in CNI_PATH, is this one, and has this version",
    "`ib-sriov install` puts it there, by rename, also while it is in use. The Go ib-sriov-cni has the same name: it "
    "is known by its build information. Another version than the doctor's means that an update is half done. "
    "`--cni-path` names the folder if the runtime has another (containerd: `bin_dir`).",
)
def look_at_plugin(seen: Seen) -> Iterator[Outcome]:
    program = seen.node.plugin
    if program is None:
        yield fail("ib-sriov is not in CNI_PATH", "ib-sriov install; or --cni-path: the runtime's folder (bin_dir)")
    elif program.kind == "go":
        yield fail(f"{program.path} is the Go ib-sriov-cni", "ib-sriov install replaces it; its pods are understood")
    elif program.fault:
        yield fail(f"{program.path}: {program.fault}", "ib-sriov install puts a whole one there")
    elif program.kind == "ours" and program.version != seen.facts.own_version:
        yield warn(
            f"{program.path} is version {program.version}, this is {seen.facts.own_version}",
            "ib-sriov install, from the newer one",
        )
    elif program.kind == "ours":
        yield ok(f"{program.path} is version {program.version}")
    else:
        yield skip(f"{program.path} does not tell what it is", "run the doctor on the node itself; or something else?")


@checks.add(
    "kubelet",
    "kubelet takes device plugins, and one is registered",
    "Each device plugin has a socket beside kubelet's in /var/lib/kubelet/device-plugins. None: the SR-IOV device "
    "plugin's DaemonSet is not on this node, or found no device its configuration selects (its log; "
    "/etc/pcidp/config.json).",
)
def look_at_kubelet(seen: Seen) -> Iterator[Outcome]:
    device_plugin = seen.node.device_plugin
    if not device_plugin.kubelet:
        yield ok("no kubelet here, so no device plugin is needed")
        return
    sockets = [name for name in device_plugin.sockets if not name.startswith("kubelet")]
    if "kubelet.sock" not in device_plugin.sockets:
        yield fail("kubelet's socket for device plugins is not there", "is kubelet running? systemctl status kubelet")
    elif not sockets:
        yield warn("no device plugin has a socket", "is the SR-IOV device plugin's pod up on this node? see its log")
    else:
        yield ok(f"device plugins: {shorten(sockets)}")


@checks.add(
    "device-plugin",
    "kubelet knows the VFs as a resource",
    "kubelet's checkpoint lists the devices of each resource. VFs that are in none are given to no pod: look at the "
    "selectors in the SR-IOV device plugin's ConfigMap (vendors, devices, drivers, pfNames, linkTypes infiniband, "
    "isRdma), and start its pod anew after changing sriov_numvfs: it looks only once.",
)
def look_at_resources(seen: Seen) -> Iterator[Outcome]:
    device_plugin = seen.node.device_plugin
    vfs = {str(vf.pci) for hca in seen.hca.hcas for vf in hca.vfs}
    if not device_plugin.kubelet or not vfs:
        return
    if device_plugin.resources is None:
        yield skip(f"resources: {device_plugin.reason}", "" if seen.node.root else "run as root")
        return
    ours = {name: vfs & set(devices) for name, devices in device_plugin.resources if vfs & set(devices)}
    missing = sorted(vfs - set().union(*ours.values()))
    for name, devices in device_plugin.resources:
        gone = sorted([device for device in devices if name in ours and device not in vfs])
        if gone:
            yield warn(
                f"{name} has devices that are no VFs here: {shorten(gone)}",
                "sriov_numvfs was changed: start the SR-IOV device plugin's pod anew",
            )
    hint = "the selectors of the SR-IOV device plugin; start its pod anew after changing sriov_numvfs"
    if not ours:
        yield fail(f"none of {len(vfs)} VFs is in a resource of kubelet's", hint)
    elif missing:
        yield warn(f"VFs in no resource: {shorten(missing)}", hint)
    else:
        yield ok(", ".join([f"{name}: {len(devices)} VFs" for name, devices in sorted(ours.items())]))


@checks.add(
    "devinfo",
    "What the device plugin noted of the VFs is still so",
    "/run/k8s.cni.cncf.io/devinfo/dp has the RDMA device's name of each VF when it was allocated. A rebind may have "
    "changed it; the plugin corrects Multus's copy at every ADD if the configuration declares the capability "
    "CNIDeviceInfoFile.",
)
def look_at_devinfo(seen: Seen) -> Iterator[Outcome]:
    names = {str(vf.pci): vf.rdma for hca in seen.hca.hcas for vf in hca.vfs}
    found = [item for item in seen.node.device_plugin.devinfo if item[1] in names]
    stale = [item for item in found if item[2] and names[item[1]] and item[2] != names[item[1]]]
    for name, pci, rdma in stale:
        yield note(
            f"{name} says {rdma}, VF {pci} is {names[pci]} now",
            'harmless if the network declares "capabilities": {"CNIDeviceInfoFile": true}',
        )
    if not stale:
        yield ok(f"{len(found)} files of device information, all as the VFs are")


@checks.add(
    "kernel",
    "The kernel can do what the configurations ask for",
    "RDMA namespaces: 5.2. Reading back what the PF was told: 5.6, before only with OFED's files "
    "(`/sys/bus/pci/devices/<PF>/sriov`). A VF's netdev comes home by itself from a dead namespace since 5.13; before, "
    "releasing binds the driver anew. A namespace is known for certain by its cookie since 5.14. Since 6.17 a moved "
    "RDMA device's netdev appears in the pod at once.",
)
def look_at_kernel(seen: Seen) -> Iterator[Outcome]:
    kernel, release = seen.node.kernel, seen.node.release
    if kernel == (0, 0):
        yield skip("the kernel's version is not seen")
        return
    isolated = [network.name for network in seen.config.networks if network.isolation]
    ofed = [hca for hca in seen.hca.hcas if hca.ofed]
    ways = "the PF's VFs are set by OFED's files" if ofed else "the PF's VFs are set by netlink"
    bad = False
    if kernel < OLDEST:
        bad = True
        yield warn(f"Linux {release} is older than any this was tried on", "4.18 or later")
    if kernel < NAMESPACES and isolated:
        bad = True
        yield fail(f"Linux {release} has no RDMA namespaces, which {shorten(isolated)} asks for", "5.2 or later")
    if kernel < READ_BACK and seen.hca.hcas and not ofed:
        bad = True
        yield warn(
            f"Linux {release} does not tell what GUIDs were set on the PF, and there are no OFED files",
            "5.6 or later, or OFED: otherwise DEL may not know a VF's old GUID",
        )
    if bad:
        return
    if kernel < COMES_HOME:
        yield note(
            f"Linux {release}: a netdev may vanish with its pod's namespace; {ways}",
            "nothing to do: the plugin binds the VF anew then. 5.13 and later bring it home",
        )
    else:
        where = "in the pod" if kernel >= NEW_NETDEV else "on the host, from where the plugin moves it"
        yield ok(f"Linux {release}: {ways}; a moved RDMA device's netdev appears {where}")
