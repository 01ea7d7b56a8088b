"""ADD: give a pod an InfiniBand VF, step by step. If a step fails, everything done so far is undone."""

from __future__ import annotations

import time

from ib_sriov_cni.attach.configure_interface import configure, set_ipv6
from ib_sriov_cni.attach.devices import await_fact, read_netdev, read_pf_settings, read_vf_facts
from ib_sriov_cni.attach.guid_holders import heal_holder, read_holders, refuse_duplicate_guid
from ib_sriov_cni.attach.heal import heal
from ib_sriov_cni.attach.keep_identity import (
    continue_record,
    find_kept_identity,
    is_only_slow,
    undo_but_keep_identity,
)
from ib_sriov_cni.attach.keep_numbers import Renumbering
from ib_sriov_cni.attach.move_into_pod import find_new_netdev, move_rdma
from ib_sriov_cni.attach.pkey_interface import make_child, parent_name
from ib_sriov_cni.attach.pod_namespace import refuse_gone_namespace, refuse_own_namespace
from ib_sriov_cni.attach.release import release, release_recorded
from ib_sriov_cni.attach.set_identity import set_identity
from ib_sriov_cni.attach.verify_rdma import verify_rdma
from ib_sriov_cni.core.comparison import (
    address_differences,
    child_differences,
    limits_mtu,
    link_differences,
)
from ib_sriov_cni.core.device_numbers import missing_devices, promised_devices
from ib_sriov_cni.core.errors import (
    CniError,
    DeviceUnusable,
    InvalidEnvironment,
    TryAgainLater,
    VerificationFailed,
)
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.core.plan import Plan, VfFacts, keeps_guid, needs_child, plan_add, refuse_function
from ib_sriov_cni.core.record import AttachmentKey, Record, describe_attachment
from ib_sriov_cni.core.values import is_pass_through
from ib_sriov_cni.delegation.ipam_plugin import NEED_INTERFACE, add_addresses, find_plugin
from ib_sriov_cni.kernel.netns import open_netns, open_own
from ib_sriov_cni.kernel.syscalls import Terminated, ignore_sigterm
from ipam.protocol.bounds import join_faults
from ipam.protocol.result import Interface, Result, append_interface, render_result
from ipam.protocol.value import replace
from ipam.protocol.versions import NEWEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.comparison import Difference
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.values import Link, PciAddress, PortReport, RdmaDevice
    from ib_sriov_cni.kernel.netns import Netns
    from ib_sriov_cni.kernel.rdma_verifier import Verifier
    from ib_sriov_cni.kernel.rtnetlink import Rtnl
    from ipam.protocol.request import Request


def add(host: Host, request: Request, conf: NetConf) -> Result:
    """Attach the VF. Returns the result; on any failure, undoes everything and raises a CniError.

    UnsupportedField (2), UnknownContainer (3: the namespace is gone), InvalidEnvironment (4: the interface name is
    taken), OwnNamespace (8), TryAgainLater (11: lock, ib-kubernetes, SIGTERM), DeviceUnusable (101), KernelRefused
    (102), VerificationFailed (103), AddressManagement (104), StateFailure (106).
    """
    try:
        with open_netns(request.netns) as netns:
            refuse_own_namespace(request, netns)
            attempt = _Attempt(host, request, conf, netns)
            try:
                attempt.prepare()
                with host.log.step("lock", vf=attempt.pci):
                    lock = host.locks.take(attempt.pci, attempt.key.holder, conf.lock_timeout)
                with lock:
                    return attempt.run()
            finally:
                attempt.close()
    except Terminated as interruption:
        hint = "its caller timed out; the log says which step was slow (ms=)"
        raise TryAgainLater("ADD was interrupted by SIGTERM and undone", interruption.details or hint) from None
    finally:
        ignore_sigterm()  # what is left is to report the outcome


class _Attempt:
    """One ADD in progress. The steps fill in its attributes."""

    def __init__(self, host: Host, request: Request, conf: NetConf, netns: Netns) -> None:
        if conf.device is None:  # parse_netconf refuses this
            raise InvalidEnvironment("no deviceID")
        self.host, self.request, self.conf, self.netns = host, request, conf, netns
        self.pci: PciAddress = conf.device
        self.key = AttachmentKey(network=conf.name, container_id=request.container_id, ifname=request.ifname)
        self._pod: Rtnl | None = None
        self.result = Result()
        self.made = Result()  # `result` without what the chain's earlier plugins made
        self.verifier: Verifier | None = None
        self.rdma_name = ""  # set when it is verified; stays empty for a VF that is passed through
        self.devices: tuple[str, ...] = ()  # character devices that the container was given
        self.plan: Plan
        self.record: Record

    @property
    def pod(self) -> Rtnl:
        """Rtnetlink of the pod's namespace, loaded and opened on first use: most refusals need none."""
        if self._pod is None:
            self._pod = self.host.open_rtnl(self.netns)
        return self._pod

    def close(self) -> None:
        """Close what the attempt has opened for itself."""
        self.end_verifier()
        if self._pod is not None:
            self._pod.close()

    def prepare(self) -> None:
        """Check what can be checked without the lock, and release what dead attachments of other VFs hold of it."""
        driver = self.host.sysfs.read_driver(self.pci)
        refuse_function(self.conf, self.pci, self.host.sysfs.read_kind(self.pci), driver)
        previous = self.host.records.read(self.key)
        if previous is None or previous.committed:
            self.refuse_taken_name()
        if self.conf.ipam_type and self.conf.ipam_type != "host-local":
            find_plugin(self.conf.ipam_type, self.request.path)
        if previous is not None and previous.pci != self.pci:
            self._release_previous(previous.pci)
        if self.conf.guid is not None:
            heal_holder(self.host, self.pci, self.key, self.conf.guid, self.conf.lock_timeout)
        if not is_pass_through(driver):
            self.start_verifier()

    def start_verifier(self) -> Verifier:
        """Start the child process that will verify the RDMA device; it loads pyverbs while the ADD goes on.

        It is started before the lock is taken, so that it cannot inherit the lock. It runs in the namespace where the
        device will be: without rdmaIsolation the host's, because in exclusive mode the pod does not see the device.
        """
        from ib_sriov_cni.kernel.rdma_verifier import Verifier

        if self.conf.rdma_isolation:
            self.verifier = Verifier(self.netns, exclusive=True)
        else:
            with open_own() as own:
                self.verifier = Verifier(own, exclusive=False)
        return self.verifier

    def end_verifier(self) -> None:
        """End that process: it keeps the pod's namespace alive."""
        if self.verifier is not None:
            self.verifier.close()
            self.verifier = None

    def _release_previous(self, pci: PciAddress) -> None:
        """Release what an earlier try left on another VF, under that VF's lock (never two at once: no deadlock)."""
        with self.host.locks.take(pci, self.key.holder, self.conf.lock_timeout):
            previous = self.host.records.read(self.key)
            if previous is not None and previous.pci == pci:
                collector = FaultCollector()
                release_recorded(self.host, previous, self.conf.lock_timeout, collector)
                collector.raise_faults()

    def refuse_taken_name(self) -> None:
        """Refuse an interface name that the pod has already (C8). With a P_Key the VF's netdev needs a second name."""
        ifname = self.request.ifname
        names = (ifname,) if self.conf.pkey is None else (ifname, parent_name(ifname))
        for name in names:
            if self.pod.read_link(name) is not None:
                wanted = ifname if name == ifname else f"{ifname} with a P_Key needs {name} too"
                raise InvalidEnvironment(
                    f"CNI_IFNAME {wanted}: an interface of that name exists in {self.netns.path}",
                    "nothing was changed; use another name, or send DEL before a second ADD",
                )

    def refuse_second_add(self) -> None:
        """Refuse if another ADD of this attachment has another VF: a record names one VF, the other would be lost."""
        there = self.host.records.read(self.key)
        if there is not None and there.pci != self.pci:
            raise TryAgainLater(
                f"another ADD of {describe_attachment(there)} is in progress, with VF {there.pci}",
                "the runtime sent two at once; this one changed nothing",
            )

    def run(self) -> Result:
        """Attach, with the VF's lock held. Returns the result; undoes everything if a step fails."""
        host = self.host
        refuse_gone_namespace(self.netns)
        earlier = find_kept_identity(host, self.pci)
        seen = heal(host, self.pci, self.key, self.conf.lock_timeout) if earlier is None else ()
        self.refuse_taken_name()
        with host.log.step("read_facts", vf=self.pci) as step:
            facts = replace(self.read_facts(seen), earlier=earlier)
            # Those of the other VFs matter only if a GUID is set.
            kept = not facts.passed_through and keeps_guid(self.conf, facts)
            facts = read_pf_settings(host, facts, alone=kept)
            if not keeps_guid(self.conf, facts):
                if kept:  # a GUID waits on the PF
                    facts = read_pf_settings(host, facts, alone=False)
                facts = replace(facts, holders=read_holders(self.host, facts))
            if self.conf.pkey is not None and facts.netdev is not None:
                facts = replace(facts, children=host.rtnl.read_children_of(facts.netdev))
            self.plan = plan_add(self.conf, facts)
            self.find_promised_devices(seen, facts)
            step.note(guid=self.plan.port_guid, origin=self.plan.origin, rebind=self.plan.needs_rebind)
        self.record = self.make_record(facts)
        try:
            with host.log.step("write_record", vf=self.pci):
                self.refuse_second_add()
                host.records.write(self.record)
            with host.log.step("claim", vf=self.pci):
                host.ownership.claim(self.pci, self.key)
                if earlier is not None and earlier.key != self.key:
                    host.records.forget(earlier.key)  # ours has what it knew
                if self.plan.sets_guid:
                    refuse_duplicate_guid(host, self.pci, self.plan.port_guid)
            if self.conf.ipam_type not in NEED_INTERFACE or facts.passed_through:
                self.reserve_addresses()
            rdma, link = set_identity(host, self.plan, facts, self.renumbering(self.devices))
            if not facts.passed_through:
                self.move_devices(rdma, link)
                if self.conf.pkey is not None:
                    self.add_child(self.conf.pkey)
                if self.conf.ipam_type in NEED_INTERFACE:
                    self.reserve_addresses()
                self.result = configure(
                    host, self.pod, self.netns, self.request.ifname, conf=self.conf, result=self.result
                )
                self.verify()
            else:
                # Without an interface that is in a namespace, Multus writes no network status.
                self._add_interface(Interface(name=self.request.ifname, sandbox=self.netns.path, pci_id=str(self.pci)))
            self.commit()
        except BaseException as fault:
            self.undo(fault)
            raise
        return self.result

    def renumbering(self, devices: tuple[str, ...] | None) -> Renumbering:
        """Return the terms on which the VF's character devices may be made anew."""
        return Renumbering(devices=devices, holder=self.key.holder, seconds=self.conf.lock_timeout, may_change=False)

    def find_promised_devices(self, seen: tuple[str, ...], facts: VfFacts) -> None:
        """Find out which character devices the container was given, and refuse a VF that has others.

        `seen`: those that the VF had before it was healed, if it was.
        """
        if facts.rdma is None:
            return
        uid = self.request.args.get("K8S_POD_UID", "")
        allocated, shared = self.host.allocations.read_devices(uid, self.pci) if uid else (None, False)
        now = facts.rdma.char_devices
        self.devices, others = promised_devices(seen or now, allocated, shared=shared)
        made_anew = self.plan.needs_rebind or self.plan.moves_rdma
        if others or (missing_devices(self.devices, now) and not made_anew):
            raise DeviceUnusable(
                f"VF {self.pci} has {', '.join(now)} now, and its container was given "
                f"{', '.join(others or self.devices)}",
                "its driver was bound again since the pod was admitted: restart the device plugin, then delete the pod",
            )

    def read_facts(self, seen: tuple[str, ...]) -> VfFacts:
        """Read the VF's facts. Waits up to 2 s for a netdev that the kernel is just returning from a dead namespace.

        A VF that has lost a device is rebound; `seen`: the character devices that it had before it was healed.
        """
        isolated = self.conf.rdma_isolation
        facts = read_vf_facts(self.host, self.pci, with_mode=isolated)
        if facts.passed_through or not facts.function.driver or (facts.netdev and facts.rdma_here):
            return facts
        await_fact(lambda: read_netdev(self.host, self.pci), 2.0)
        facts = read_vf_facts(self.host, self.pci, with_mode=isolated)
        if facts.netdev and facts.rdma_here:
            return facts
        from ib_sriov_cni.attach.lost_devices import find_lost, recover

        lost = find_lost(self.host, facts)
        if not lost:
            return facts  # plan_add refuses it
        recover(self.host, facts, lost, self.renumbering(seen or None))
        return read_vf_facts(self.host, self.pci, with_mode=isolated)

    def make_record(self, facts: VfFacts) -> Record:
        """Return the record: everything DEL will need, as it is before the first change."""
        netdev, rdma, earlier = facts.netdev, facts.rdma, facts.earlier
        record = Record(
            key=self.key,
            pci=self.pci,
            boot_id=self.host.read_boot_id(),
            netns_path=self.netns.path,
            netns_cookie=self.pod.netns_cookie(),
            pod=self.conf.pod,
            since=time.time(),
            committed=False,
            rdma_isolation=self.plan.moves_rdma,
            driver=facts.function.driver,
            had_netdev=netdev.name if netdev else "",
            had_altnames=netdev.altnames if netdev else (),
            had_mtu=netdev.mtu if netdev else 0,
            had_up=netdev.up if netdev else False,
            had_rdma=rdma.name if rdma else "",
            # Also if this container was given none: the next one may be.
            had_char_devices=self.devices or (rdma.char_devices if rdma else ()),
            had_node_guid=facts.node_guid,
            had_port_guid=facts.port_guid,
            had_config_node_guid=facts.had_config_guids[0],
            had_config_port_guid=facts.had_config_guids[1],
            had_link_state=facts.config.link_state,
            port_guid=self.plan.port_guid,
            node_guid=self.plan.node_guid,
            sets_guid=self.plan.sets_guid,
            link_state=self.plan.link_state,
            conf={key: item for key, item in self.request.conf.items() if key != "prevResult"},
            args=self.request.environ.get("CNI_ARGS", ""),
            result={},
        )
        return record if earlier is None else continue_record(record, earlier)

    def reserve_addresses(self) -> None:
        """Have the IPAM plugin reserve addresses, if there is one."""
        if self.conf.ipam_type:
            with self.host.log.step("reserve_addresses", ipam=self.conf.ipam_type) as step:
                self.result = add_addresses(self.request, self.conf.ipam_type, self.host.log)
                step.note(addresses=",".join([ip.address for ip in self.result.ips]))

    def move_devices(self, rdma: RdmaDevice | None, link: Link | None) -> None:
        """Move the RDMA device (rdmaIsolation), then the netdev. In the other order the netdev would be lost."""
        in_host_namespace = True
        if self.plan.moves_rdma and rdma is not None:
            move_rdma(self.host, self.pci, rdma.name, self.netns, self.renumbering(self.devices))
            with self.host.log.step("find_netdev", vf=self.pci):
                link, in_host_namespace = find_new_netdev(self.host, self.pci, self.pod)
        if link is None:  # plan_add refuses this
            raise VerificationFailed(f"VF {self.pci} has no netdev")
        with self.host.log.step("move_netdev", netdev=link.name, to=self.request.ifname):
            # Its namespace was found by its PCI device: in the pod, its index may belong to another interface.
            if in_host_namespace:
                # No need to take it down: the kernel does (dev_change_net_namespace).
                self.host.rtnl.move_link(link, self.netns.fd, self.request.ifname)
            else:
                self.pod.set_name(link, self.request.ifname)
        if self.conf.pkey is not None or self.conf.ipam_type in NEED_INTERFACE:
            # Of the netdev; a child of it may become the interface, or the IPAM plugin may bring it up.
            set_ipv6(self.host, self.netns, self.request.ifname, conf=self.conf, result=self.result)

    def add_child(self, pkey: int) -> None:
        """Add an IPoIB child for a P_Key that is not at index 0. Decided only now: a new GUID has its own table."""
        report = self._verify_rdma()
        if not needs_child(report, pkey):
            return
        with self.host.log.step("add_child", ifname=self.request.ifname, pkey=f"{pkey:#06x}"):
            self.record = replace(self.record, child_pkey=pkey)
            self.host.records.write(self.record)
            make_child(self.pod, self.request.ifname, pkey)

    def verify(self) -> None:
        """Read everything again and compare it with the plan, then query the RDMA device itself."""
        name = self.request.ifname
        with self.host.log.step("verify_netdev", ifname=name):
            link = self.pod.read_link(name)
            faults = link_differences(link, name=name, guid=self.plan.port_guid, mtu=self.conf.mtu, pci=self.pci)
            if link is not None:
                faults += self._address_differences(link)
                if self.record.child_pkey:
                    faults += child_differences(link, self.pod.find_link(self.pci), self.record.child_pkey)
            if faults:
                raise VerificationFailed(f"VF {self.pci} in the pod: " + join_faults([*faults]))
        if self.conf.pkey is None:  # otherwise add_child has done it
            self._verify_rdma()
        if self.conf.mtu:  # by now the broadcast group may have been joined
            link = self.pod.read_link(name) or link
        if link is not None:
            if limits_mtu(link, self.conf.mtu):
                self.host.log.warning(
                    "the MTU is smaller than asked for: the broadcast group allows no more; see the subnet manager's "
                    "partitions (partitions.conf: mtu=5 is 4092)",
                    ifname=name,
                    mtu=link.mtu,
                    wanted=self.conf.mtu,
                )
            name, mac, sandbox = link.name, link.mac, self.netns.path
            self._add_interface(Interface(name=name, mac=mac, sandbox=sandbox, mtu=link.mtu, pci_id=str(self.pci)))

    def _address_differences(self, link: Link) -> list[Difference]:
        wanted = self.result
        addresses = self.pod.read_addresses(link) if wanted.ips else []
        six = [":" in route.dst for route in wanted.routes]
        routes = self.pod.read_routes(link, ipv4=not all(six), ipv6=any(six))
        return address_differences(wanted, None, addresses, routes)

    def _verify_rdma(self) -> PortReport:
        self.rdma_name = self.host.sysfs.read_rdma_name(self.pci)
        if not self.rdma_name:
            raise VerificationFailed(f"VF {self.pci} has lost its RDMA device", "see the kernel log")
        # None if the VF had a driver for virtual machines until a moment ago.
        verifier = self.verifier or self.start_verifier()
        return verify_rdma(self.host, self.conf, self.plan, verifier, pci=self.pci, rdma=self.rdma_name)

    def _add_interface(self, interface: Interface) -> None:
        """Append our interface to the result of the chain's earlier plugins (C9)."""
        reserved = self.result
        self.made = append_interface(Result(), interface, reserved)
        self.result = append_interface(self.conf.prev_result or Result(), interface, reserved)

    def commit(self) -> None:
        """Mark the record as committed. SIGTERM is ignored from here on: the runtime gets its result."""
        ignore_sigterm()
        if self.conf.device_info_file:
            self._write_device_info()
        with self.host.log.step("commit", vf=self.pci):
            refuse_gone_namespace(self.netns)
            doc = render_result(self.made, NEWEST)
            self.record = replace(self.record, committed=True, result=doc)
            self.host.records.write(self.record)

    def _write_device_info(self) -> None:
        """Correct the device plugin's file: a rebind may have changed the RDMA device's name (N4)."""
        from ib_sriov_cni.state.device_info import write_device_info

        path = self.conf.device_info_file
        with self.host.log.step("write_device_info", path=path, rdma=self.rdma_name):
            write_device_info(path, pci=self.pci, pf=self.host.sysfs.read_pf(self.pci), rdma=self.rdma_name)

    def undo(self, fault: BaseException) -> None:
        """Restore the host (C11). What cannot be undone now stays in the record, for the DEL that follows."""
        ignore_sigterm()
        self.end_verifier()
        there = self.host.records.read(self.key)
        if there is None or there.pci != self.pci:
            return  # nothing was changed: the record was not written, or another ADD wrote one
        self.host.log.error("ADD failed, undoing it", error=fault, pod=describe_attachment(self.record))
        if self.keep_identity(fault):
            return
        collector = FaultCollector()
        release(self.host, self.record, self.request, self.conf, collector)
        for other in collector.faults:
            self.host.log.error("undoing failed", error=other)
        if collector.faults and isinstance(fault, (CniError, Terminated)):
            words = join_faults([other.msg for other in collector.faults])
            fault.details = f"{fault.details}; undoing it failed too, the next DEL tries again: {words}".lstrip("; ")

    def keep_identity(self, fault: BaseException) -> bool:
        """Undo all but GUID and link state if only the port was not up in time. Returns whether that is done."""
        if not is_only_slow(fault, self.record):
            return False
        if not undo_but_keep_identity(self.host, self.record, self.request, self.conf):
            return False
        fault.details = f"{fault.details}; the VF keeps GUID {self.record.port_guid} for the next try"
        return True
