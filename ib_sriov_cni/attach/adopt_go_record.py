"""Taking over attachments made by the Go ib-sriov-cni, for nodes that are upgraded while pods run (N6).

Its record is converted to one of ours, so that DEL needs no code of its own for it. It has less: not the boot or the
namespace it was made in, nor the link state before it (the Go plugin restores "auto").
"""

from __future__ import annotations

import time

from ib_sriov_cni.core.record import Record
from ib_sriov_cni.core.values import Guid, PciAddress, is_pass_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import AttachmentKey
    from ipam.protocol.request import Request


def adopt(host: Host, request: Request, conf: NetConf, key: AttachmentKey) -> Record | None:
    """Return the Go plugin's record of this attachment as one of ours; None if there is none, or it is damaged."""
    found = host.go_records.read(key)
    if found is None:
        return None
    doc, written = found
    try:
        pci = PciAddress.parse(_text(doc, "deviceID"))
    except ValueError:
        path = host.go_records.file_of(key)
        host.log.warning("the Go plugin's record has no valid deviceID; it is kept as a damaged record", record=path)
        host.go_records.mark_damaged(key)
        return None
    if host.go_records.is_superseded(key, pci, written):
        host.log.warning("the Go plugin gave the VF to a later pod; it is left alone", vf=pci)
        written = 0.0  # counts as made in an earlier boot: no device is touched
    with host.log.step("adopt", vf=pci, record=host.go_records.file_of(key)):
        return _make_record(host, request, conf, key, doc, pci=pci, written=written)


def _make_record(
    host: Host,
    request: Request,
    conf: NetConf,
    key: AttachmentKey,
    doc: dict[str, object],
    *,
    pci: PciAddress,
    written: float,
) -> Record:
    """Convert the Go plugin's document. What it does not have is taken from the VF as it is now."""
    guid = Guid.parse_or_none(_text(doc, "HostIFGUID")[-23:])  # of the whole hardware address, or of its last 8 bytes
    rdma_state = doc.get("RdmaNetState")
    rdma = _text(rdma_state, "SandboxRdmaDevName") if isinstance(rdma_state, dict) else ""
    link_state = _text(doc, "link_state")
    return Record(
        key=key,
        pci=pci,
        # If it was written before this boot, the devices it names are gone.
        boot_id=host.read_boot_id() if written >= _boot_time() else "",
        netns_path=request.netns,
        netns_cookie=0,
        pod=conf.pod,
        since=written,
        committed=True,
        rdma_isolation=doc.get("rdmaIsolation") is True,
        driver=_driver(host, pci, doc),
        had_netdev=_text(doc, "HostIFNames"),
        had_altnames=(),
        had_mtu=0,
        had_up=False,
        had_rdma=rdma,
        had_char_devices=(),
        had_node_guid=guid,
        had_port_guid=guid,
        had_config_node_guid=guid,
        had_config_port_guid=guid,
        had_link_state="auto" if link_state else "",
        port_guid=Guid(0),
        node_guid=Guid(0),
        sets_guid=guid is not None,
        link_state=link_state,
        conf={name: item for name, item in request.conf.items() if name != "prevResult"},
        args=request.environ.get("CNI_ARGS", ""),
        result={},
    )


def _driver(host: Host, pci: PciAddress, doc: dict[str, object]) -> str:
    """Return the VF's driver; its PF's if it has none, because the Go plugin died between unbind and bind.

    In its vfioPciMode the Go plugin moves and rebinds nothing, whatever the driver is, and the device may be a PF.
    """
    if not host.sysfs.exists(pci):
        return ""
    driver = host.sysfs.read_driver(pci)
    if doc.get("vfioPciMode") is True:
        return driver if is_pass_through(driver) else "vfio-pci"
    return driver or host.sysfs.read_function(pci).pf_driver


def _boot_time() -> float:
    """Return when this boot began, in Unix time (s)."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _text(doc: dict[str, object], name: str) -> str:
    found = doc.get(name)
    return found if isinstance(found, str) else ""
