"""One examination: the facts are read in two rounds, the second of which asks what the first has found."""

from __future__ import annotations

from ib_sriov_cni import __version__
from ib_sriov_cni.doctor import read_hca
from ib_sriov_cni.doctor.bounded import Answers, read_bounded
from ib_sriov_cni.doctor.facts import AllFacts, HcaFacts
from ib_sriov_cni.doctor.read_config import read_configs
from ib_sriov_cni.doctor.read_node import read_node
from ib_sriov_cni.doctor.read_state import read_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ib_sriov_cni.doctor.facts import ConfigFacts, Options, PortFacts, Roots
    from ib_sriov_cni.doctor.facts import Network as NetworkFacts

SM_SECONDS = 4.0  # for all of them; one that works answers in milliseconds
OWN_SYSFS = "/sys"  # the one that libibverbs looks at, whatever roots there are
NOT_OWN = {"verbs": "libibverbs looks at this machine only, not at another tree"}


def read_all_facts(roots: Roots, options: Options) -> AllFacts:
    """Read everything there is to know, in about twice `options.seconds` at most."""
    first = read_bounded(
        {"hca": lambda: read_hca.read_hcas(roots), "config": lambda: read_configs(roots, options)}, options.seconds
    )
    hca: HcaFacts | None = first.found.get("hca")  # type: ignore[assignment]  # what its reader gives
    config: ConfigFacts | None = first.found.get("config")  # type: ignore[assignment]  # likewise
    networks = config.networks if config else ()
    readers: dict[str, Callable[[], object]] = {
        "state": lambda: read_state(roots, networks),
        "node": lambda: read_node(roots, options, networks),
    }
    if hca is not None:
        readers |= _fabric_readers(roots, options, hca, networks)
    second = read_bounded(readers, options.seconds)
    return _gather(first, second, roots, options)


def _fabric_readers(
    roots: Roots, options: Options, hca: HcaFacts, networks: tuple[NetworkFacts, ...]
) -> dict[str, Callable[[], object]]:
    """Give the readers of what the firmware is asked for: each PF's port, and those of the VFs that are at home."""
    pfs = [each.rdma for each in hca.hcas if each.rdma]
    vfs = [vf.rdma for each in hca.hcas for vf in each.vfs if vf.rdma_here]
    wants_pkeys = any(network.pkey is not None for network in networks)
    whole = frozenset(pfs + (vfs if wants_pkeys else []))

    def ports(names: tuple[str, ...]) -> dict[str, PortFacts]:
        return read_hca.read_ports(roots, names, whole)

    def sm() -> object:
        return read_hca.ask_subnet_managers(roots, hca.hcas, ports(tuple(pfs)), min(SM_SECONDS, options.seconds * 0.7))

    # One of a kind tells whether the library and the nodes are right; opening all of them would take too long.
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
    unseen = {} if roots.sysfs == OWN_SYSFS else NOT_OWN
    return AllFacts(
        **found,  # type: ignore[arg-type]  # each reader gives its topic's type
        unseen={**unseen, **first.faults, **second.faults},
        hung=(*first.hung, *second.hung),
        seconds=options.seconds,
        own_version=__version__,
    )
