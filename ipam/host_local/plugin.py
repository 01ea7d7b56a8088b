"""The bundled host-local: ADD, DEL, CHECK, GC and STATUS, in process or as the executable ib-host-local (H1 to H8)."""

from __future__ import annotations

import os
import sys

from ipam.host_local.allocator import Holder, Refusal, allocate
from ipam.host_local.config import parse_place, parse_settings
from ipam.host_local.ranges import range_of, render_set
from ipam.host_local.store import open_store
from ipam.protocol.errors import (
    AddressManagement,
    CniError,
    InvalidConfiguration,
    NotAvailable,
    OwnNamespace,
    StateFailure,
)
from ipam.protocol.request import is_name
from ipam.protocol.result import NO_DNS, Address, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ipam.host_local.config import Settings
    from ipam.host_local.ranges import RangeSet
    from ipam.host_local.store import Store
    from ipam.protocol.request import Request

KNOWN_ARGS = frozenset({"IP"})
_TEXT_MAX = 1 << 20  # bytes of a file that the configuration names
_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")


def add(request: Request) -> Result:
    """Reserve one address of each range set for the attachment (H3, H4, H7)."""
    settings = parse_settings(request)
    sets = own_sets(settings)
    dns = _read_dns(settings.resolv_conf)
    holder = _holder(request)
    store = open_store(settings.place, create=True)
    if store is None:
        raise StateFailure(f"cannot make {settings.place.data_dir}/{settings.place.network}")
    with store:
        try:
            grants = allocate(sets, settings.requested, holder, store)
        except Refusal as refusal:
            if not (refusal.none_free and store.reclaim()):
                _advance(store, refusal)
                raise
            grants = allocate(sets, settings.requested, holder, store)
        store.reserve(holder, grants)
    ips = [Address(address=grant.cidr, gateway=grant.gateway_text) for grant in grants]
    return Result(ips=tuple(ips), routes=settings.routes, dns=dns)


def delete(request: Request) -> None:
    """Release all addresses of the attachment; none held is a success (H6, C13)."""
    store = open_store(parse_place(request.conf), create=False)
    if store is not None:
        with store:
            store.release(_holder(request))


def check(request: Request) -> None:
    """Look whether the attachment holds an address, and each one of prevResult that is ours (H6, C15)."""
    settings = parse_settings(request)
    holder = _holder(request)
    store = open_store(settings.place, create=False)
    held: list[tuple[int, int]] = []
    if store is not None:
        with store:
            held = store.held(holder)
    who = f"{holder.container_id} {holder.ifname} of network {settings.place.network}"
    if not held:
        raise AddressManagement(f"no address is reserved for {who}")
    lost = [text for text, address in _promised(request, settings.sets) if address not in held]
    if lost:
        raise AddressManagement(f"not reserved for {who}: {', '.join(lost)}")


def gc(request: Request, live: Callable[[], Iterable[str]] = tuple) -> None:
    """Release every lease of this network whose container has no valid attachment (H8, C16, C17).

    `live` gives more valid containers; it is asked after the leases were read.
    """
    valid = _valid_containers(request.conf)
    store = open_store(parse_place(request.conf), create=False)
    if store is None:
        return
    with store:
        holders = store.holders()
        valid = {*valid, *live()}
        # What does not name a container was put there by somebody else, to keep an address from being given.
        stale = {
            holder: names
            for holder, names in holders.items()
            if holder.container_id not in valid and is_name(holder.container_id)
        }
        if stale:
            store.remove(stale)


def status(request: Request) -> None:
    """Say nothing if an ADD could be served; NotAvailable tells what is in the way (H8, C18)."""
    settings = parse_settings(request)
    try:
        sets = own_sets(settings)
        _read_dns(settings.resolv_conf)
    except CniError as error:
        raise NotAvailable(error.msg, error.details) from None
    from ipam.host_local.store import is_exhausted, is_writable

    place = settings.place
    if not is_writable(place):
        raise NotAvailable(f"{place.data_dir} cannot be written", "mount it read-write, or set ipam.dataDir")
    for index, range_set in enumerate(sets):
        if is_exhausted(place, index, range_set):
            raise NotAvailable(
                f"no IP addresses available in range set {index} of network {place.network}: {render_set(range_set)}",
                f"widen the range, or release leases of dead containers in {place.data_dir}/{place.network} (GC)",
            )


def main() -> int:
    """Run as a CNI plugin on this process's environment, standard input and output."""
    environ = dict(os.environ)
    if not environ.get("CNI_COMMAND"):
        from ipam.protocol.versions import VERSIONS

        sys.stderr.write(
            f"ib-host-local: CNI IPAM plugin, a drop-in for host-local\nCNI versions: {', '.join(VERSIONS)}\n"
        )
        return 0
    from ipam.protocol.edge import serve

    handlers = {"ADD": _add_elsewhere, "DEL": delete, "CHECK": check, "GC": gc, "STATUS": status}
    return serve(
        handlers,
        known_args=KNOWN_ARGS,
        environ=environ,
        stdin=getattr(sys.stdin, "buffer", None),
        stdout=getattr(sys.stdout, "buffer", None),
    )


def _add_elsewhere(request: Request) -> Result:
    """ADD, but not for the namespace this process is in (C20); a DEL is never refused for that."""
    if request.environ.get("CNI_NETNS_OVERRIDE", "").lower() not in ("1", "true"):
        try:
            own = os.path.samestat(os.stat(request.netns), os.stat("/proc/self/ns/net"))
        except OSError:  # no address needs the namespace; the plugin that does will report it
            own = False
        if own:
            raise OwnNamespace(f"CNI_NETNS {request.netns} is the namespace of the plugin itself")
    return add(request)


def _holder(request: Request) -> Holder:
    return Holder(container_id=request.container_id, ifname=request.ifname)


def own_sets(settings: Settings) -> tuple[RangeSet, ...]:
    """Give the range sets that this node gives addresses from."""
    if settings.slices is None:
        return settings.sets
    from ipam.host_local.slices import cut_sets, find_slice

    return cut_sets(settings.sets, find_slice(settings.slices, _read_text))


def _advance(store: Store, refusal: Refusal) -> None:
    """Let the sets that had been served go on from there, as the Go plugin does."""
    try:
        store.advance(refusal.granted)
    except OSError:  # the refusal matters, the cursor does not
        pass


def _read_dns(path: str) -> Mapping[str, object]:
    if not path:
        return NO_DNS
    from ipam.host_local.resolvconf import parse_resolv_conf

    try:
        return parse_resolv_conf(_read_text(path))
    except OSError as error:
        raise StateFailure(f"ipam.resolvConf {path} cannot be read: {error.strerror}") from None


def _read_text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(_TEXT_MAX).decode(errors="replace")


def _promised(request: Request, sets: tuple[RangeSet, ...]) -> list[tuple[str, tuple[int, int]]]:
    """Give the addresses of prevResult that lie in our range sets."""
    if request.conf.get("prevResult") is None:
        return []
    from ipam.protocol.address import parse_cidr
    from ipam.protocol.result import parse_result

    before = parse_result(request.conf["prevResult"], request.version)
    found = [(item.address, parse_cidr(item.address)[0]) for item in before.ips]
    return [(text, address) for text, address in found if any(range_of(one, address) for one in sets)]


def _valid_containers(conf: Mapping[str, object]) -> set[str]:
    """Give the containers of the valid attachments; an absent list is not an empty one (C16).

    Some runtimes list their eth0 attachments only: one valid attachment keeps all of a container's (C17).
    """
    listed = next((conf[key] for key in _ATTACHMENTS if conf.get(key) is not None), None)
    if not isinstance(listed, list):
        raise InvalidConfiguration(f"{_ATTACHMENTS[0]} is not a list: nothing is released")
    containers = set()
    for index, item in enumerate(listed):
        container = item.get("containerID") if isinstance(item, dict) else None
        if not isinstance(container, str) or not container:
            raise InvalidConfiguration(f"{_ATTACHMENTS[0]}[{index}] has no containerID: nothing is released")
        containers.add(container)
    return containers


if __name__ == "__main__":
    sys.exit(main())
