"""GC: release the network's attachments that are neither listed as valid nor alive (C16, C17)."""

from __future__ import annotations

from ib_sriov_cni.attach.heal import release_dead
from ib_sriov_cni.attach.liveness import Patience
from ib_sriov_cni.core.errors import InvalidConfiguration
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.delegation.ipam_plugin import collect_addresses
from ipam.protocol.fastjson import dumps
from ipam.protocol.request import VALID_KEYS, find_valid_attachments
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ib_sriov_cni.attach.host import Host
    from ib_sriov_cni.core.configuration import NetConf
    from ib_sriov_cni.core.record import AttachmentKey
    from ib_sriov_cni.telemetry.log import Step
    from ipam.protocol.request import Request


def collect(host: Host, request: Request, conf: NetConf) -> None:
    """Release every dead attachment of the network that is not listed, and have the IPAM plugin do likewise.

    Raises InvalidConfiguration (7) without a proper list. Other failures do not stop it; they are raised together at
    the end.
    """
    valid = parse_valid(request.conf)
    # One valid attachment keeps all of its container's: some runtimes list only eth0.
    containers = {container_id for container_id, _ in valid}
    collector, patience = FaultCollector(), Patience()
    for key in host.records.read_keys():
        if key.network == conf.name and key.container_id not in containers:
            with host.log.step("collect", attachment=key.path) as step:
                collector.attempt(_release, host, key, conf.lock_timeout, collector, patience, step)
    host.records.sweep(conf.name)
    if conf.ipam_type:
        collector.attempt(lambda: _collect_addresses(host, request, conf, valid))
    collector.raise_faults()


def _release(
    host: Host, key: AttachmentKey, lock_timeout: float, collector: FaultCollector, patience: Patience, step: Step
) -> None:
    before = len(collector.faults)
    released = release_dead(host, key, lock_timeout, collector, patience)
    step.note(released=released and len(collector.faults) == before)


def parse_valid(conf: dict[str, object]) -> list[tuple[str, str]]:
    """Return the valid attachments as (containerID, ifname).

    Raises InvalidConfiguration (7) if there is no list: that does not mean that nothing is valid.
    """
    pairs = []
    for index, item in enumerate(find_valid_attachments(conf)):
        pair = (item.get("containerID"), item.get("ifname")) if isinstance(item, dict) else (None, None)
        if not all(isinstance(part, str) and part for part in pair):
            raise InvalidConfiguration(f"{VALID_KEYS[0]}[{index}] has no containerID or ifname", "nothing was released")
        pairs.append((str(pair[0]), str(pair[1])))
    return pairs


def _collect_addresses(host: Host, request: Request, conf: NetConf, valid: list[tuple[str, str]]) -> None:
    """Forward GC to the IPAM plugin. Attachments that still have a record are added to the list of valid ones."""

    def recorded() -> list[AttachmentKey]:
        keys = [*host.records.read_keys(), *host.go_records.read_keys(conf.name)]
        return [key for key in keys if key.network == conf.name]

    pairs = dict.fromkeys([*valid, *[(key.container_id, key.ifname) for key in recorded()]])
    listed = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in pairs]
    document: dict[str, object] = {**request.conf, **dict.fromkeys(VALID_KEYS[:1], listed)}
    document.pop(VALID_KEYS[1], None)
    extended = replace(request, conf=document, stdin=dumps(document).encode())
    with host.log.step("collect_addresses", ipam=conf.ipam_type):
        collect_addresses(extended, conf.ipam_type, host.log, lambda: [key.container_id for key in recorded()])
