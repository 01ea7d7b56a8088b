"""Reading all facts, in two stages: the second asks what the first has found."""

from __future__ import annotations

import time

from ib_sriov_cni import __version__
from ib_sriov_cni.doctor import read_hca
from ib_sriov_cni.doctor.facts import AllFacts, HcaFacts
from ib_sriov_cni.doctor.read_config import read_configs
from ib_sriov_cni.doctor.read_node import read_node
from ib_sriov_cni.doctor.read_state import read_state
from ib_sriov_cni.doctor.reader_processes import Answers, read_bounded
from ipam.protocol.value import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.doctor.facts import ConfigFacts, Network, Options, PortFacts, Roots

YARDSTICK_SECONDS = 0.05  # for a usual machine to start a process and have it compute a little
YARDSTICK_STEPS = 200_000
MAX_SLOWNESS = 20.0  # times a usual machine
OWN_SYSFS = "/sys"  # what libibverbs reads, whatever the roots are
NOT_OWN_SYSFS = {"verbs": "libibverbs reads this machine's /sys only"}


def measure_slowness() -> float:
    """Return how many times longer than a usual machine this one takes now for the same work: 1 to MAX_SLOWNESS."""
    begun = time.monotonic()
    read_bounded({"work": lambda: sum(range(YARDSTICK_STEPS))}, YARDSTICK_SECONDS * MAX_SLOWNESS)
    return min(max(1.0, (time.monotonic() - begun) / YARDSTICK_SECONDS), MAX_SLOWNESS)


def read_all_facts(roots: Roots, options: Options, slowness: Callable[[], float] = measure_slowness) -> AllFacts:
    """Read every topic, within about twice `options.seconds`, times how slow the machine is: slow is not broken."""
    options = replace(options, seconds=round(options.seconds * slowness(), 1))
    first = read_bounded(
        {"hca": lambda: read_hca.read_hcas(roots), "config": lambda: read_configs(roots, options)}, options.seconds
    )
    hca: HcaFacts | None = first.found.get("hca")  # type: ignore[assignment]  # what its reader returns
    config: ConfigFacts | None = first.found.get("config")  # type: ignore[assignment]  # likewise
    networks = config.networks if config else ()
    readers: dict[str, Callable[[], object]] = {
        "state": lambda: read_state(roots, networks),
        "node": lambda: read_node(roots, options, networks),
    }
    if hca is not None:
        readers |= _make_fabric_readers(roots, options, hca, networks)
    second = read_bounded(readers, options.seconds)
    return _gather(first, second, roots, options)


def _make_fabric_readers(
    roots: Roots, options: Options, hca: HcaFacts, networks: tuple[Network, ...]
) -> dict[str, Callable[[], object]]:
    """Return the readers that ask the firmware: about each PF's port, and those of the VFs in the host's namespace."""
    pfs = [each.rdma for each in hca.hcas if each.rdma]
    vfs = [vf.rdma for each in hca.groups for vf in each.vfs if vf.rdma_here]
    needs_pkeys = any(network.pkey is not None for network in networks)
    whole_tables = frozenset(pfs + (vfs if needs_pkeys else []))

    def ports(names: tuple[str, ...]) -> dict[str, PortFacts]:
        return read_hca.read_ports(roots, names, whole_tables)

    def sm() -> object:
        return read_hca.ask_subnet_managers(roots, hca.hcas, ports(tuple(pfs)), options.seconds * 0.7)

    # One PF and one VF show whether the library and the device nodes work; opening all of them would take too long.
    sample = tuple([name for name in [*pfs[:1], *vfs[:1]] if name])
    readers: dict[str, Callable[[], object]] = {
        "ports": lambda: ports(tuple(pfs + vfs)),
        "vf_configs": lambda: read_hca.read_vf_configs(roots, hca.hcas),
        "sm": sm,
    }
    if roots.sysfs == OWN_SYSFS:
        readers["verbs"] = lambda: read_hca.open_devices(sample, options.seconds * 0.9)
    return readers


def _gather(first: Answers, second: Answers, roots: Roots, options: Options) -> AllFacts:
    found = {**first.found, **second.found}
    unread = {} if roots.sysfs == OWN_SYSFS else NOT_OWN_SYSFS
    return AllFacts(
        **found,  # type: ignore[arg-type]  # each reader returns its topic's type
        unread={**unread, **first.faults, **second.faults},
        hung=(*first.hung, *second.hung),
        seconds=options.seconds,
        own_version=__version__,
    )
