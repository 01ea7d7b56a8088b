"""The commands of the bundled host-local, called in process or by the executable ib-host-local (H1 to H8)."""

from __future__ import annotations

import os
import sys

from ipam.host_local.allocator import Holder, Refusal, allocate
from ipam.host_local.config import parse_place, parse_settings
from ipam.host_local.ranges import range_of
from ipam.host_local.store import open_store
from ipam.protocol.bounds import FILE_BYTES, LIST_ITEMS, describe_excess, join_faults
from ipam.protocol.errors import (
    AddressManagement,
    CniError,
    InvalidConfiguration,
    NotAvailable,
    OwnNamespace,
    StateFailure,
)
from ipam.protocol.files import read_regular
from ipam.protocol.request import VALID_KEYS, find_valid_attachments, is_name
from ipam.protocol.result import NO_DNS, Address, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ipam.host_local.config import Settings
    from ipam.host_local.ranges import RangeSet
    from ipam.host_local.store import Store
    from ipam.protocol.request import Request

KNOWN_ARGS = frozenset({"IP"})


def add(request: Request) -> Result:
    """Reserve one address of each range set and return them with the configured routes and DNS settings (H3, H4, H7).

    Raises InvalidConfiguration (7), TryAgainLater (11: lock held, slice unknown), AddressManagement (104: no address),
    StateFailure (106).
    """
    settings = parse_settings(request)
    sets = node_range_sets(settings)
    dns = _read_dns(settings.resolv_conf)
    holder = _holder(request)
    store = open_store(settings.place, create=True)
    if store is None:
        raise StateFailure(f"cannot create {settings.place.data_dir}/{settings.place.network}")
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
    """Release all addresses of the attachment. Succeeds if it holds none (H6, C13).

    Raises InvalidConfiguration (7: dataDir), TryAgainLater (11: lock held), StateFailure (106).
    """
    store = open_store(parse_place(request.conf), create=False)
    if store is not None:
        with store:
            store.release(_holder(request))


def check(request: Request) -> None:
    """Check that the attachment holds an address, and every address of prevResult that is in our ranges (H6, C15).

    Raises AddressManagement (104) if not; InvalidConfiguration (7), TryAgainLater (11), StateFailure (106).
    """
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
    reserved = frozenset(held)
    lost = [text for text, address in _previous_addresses(request, settings.sets) if address not in reserved]
    if lost:
        raise AddressManagement(f"addresses not reserved for {who}: {join_faults(lost, ', ')}")


def gc(request: Request, live: Callable[[], Iterable[str]] = tuple) -> None:
    """Release every lease of this network whose container has no valid attachment (H8, C16, C17).

    `live` returns further valid containers; it is called after the leases were read. Raises InvalidConfiguration (7)
    without a list of valid attachments, TryAgainLater (11: lock held), StateFailure (106).
    """
    valid = _valid_containers(request.conf)
    store = open_store(parse_place(request.conf), create=False)
    if store is None:
        return
    with store:
        holders = store.holders()
        valid = {*valid, *live()}
        # A file that does not name a container was put there by somebody else, to reserve the address.
        stale = {
            holder: names
            for holder, names in holders.items()
            if holder.container_id not in valid and is_name(holder.container_id)
        }
        if stale:
            store.remove(stale)


def status(request: Request) -> None:
    """Return if ADDs can be served, as long as addresses are free (C18).

    That none is free is for ADD to say: a runtime that gets code 50 takes the whole node for broken. Raises
    NotAvailable (50) with the reason, InvalidConfiguration (7) for a wrong configuration.
    """
    settings = parse_settings(request)
    try:
        node_range_sets(settings)
        _read_dns(settings.resolv_conf)
    except CniError as error:
        raise NotAvailable(error.msg, error.details) from None
    from ipam.host_local.store import is_writable

    place = settings.place
    if not is_writable(place):
        raise NotAvailable(f"{place.data_dir} cannot be written", "mount it read-write, or set ipam.dataDir")


def main() -> int:
    """Run as a CNI plugin on this process's environment, standard input and output. Returns the exit status."""
    environ = dict(os.environ)
    if not environ.get("CNI_COMMAND"):
        from ipam.protocol.versions import VERSIONS

        sys.stderr.write(
            "ib-host-local: CNI IPAM plugin, a drop-in replacement for host-local\n"
            f"CNI versions: {', '.join(VERSIONS)}\n"
        )
        return 0
    from ipam.protocol.edge import serve

    handlers = {"ADD": _add_checked, "DEL": delete, "CHECK": check, "GC": gc, "STATUS": status}
    return serve(
        handlers,
        known_args=KNOWN_ARGS,
        environ=environ,
        stdin=getattr(sys.stdin, "buffer", None),
        stdout=getattr(sys.stdout, "buffer", None),
    )


def _add_checked(request: Request) -> Result:
    """ADD, refused for the namespace that this process is in (C20). DEL is not refused."""
    if request.environ.get("CNI_NETNS_OVERRIDE", "").lower() not in ("1", "true"):
        try:
            own = os.path.samestat(os.stat(request.netns), os.stat("/proc/self/ns/net"))
        except OSError:  # addresses do not need the namespace; the plugin that does will report it
            own = False
        if own:
            raise OwnNamespace(f"CNI_NETNS {request.netns} is the plugin's own network namespace")
    return add(request)


def _holder(request: Request) -> Holder:
    return Holder(container_id=request.container_id, ifname=request.ifname)


def node_range_sets(settings: Settings) -> tuple[RangeSet, ...]:
    """Return the range sets that this node allocates from: the configured ones, or its slice of them.

    Raises TryAgainLater (11) if the slice is unknown, InvalidConfiguration (7) if it has no address.
    """
    if settings.slices is None:
        return settings.sets
    from ipam.host_local.slices import cut_sets, find_slice

    return cut_sets(settings.sets, find_slice(settings.slices, _read_text))


def _advance(store: Store, refusal: Refusal) -> None:
    """Move the cursors of the sets that were served before the refusal, as the Go plugin does."""
    try:
        store.advance(refusal.granted)
    except OSError:  # the refusal matters, the cursor does not
        pass


def _read_dns(path: str) -> Mapping[str, object]:
    if not path:
        return NO_DNS
    from ipam.host_local.resolvconf import parse_resolv_conf

    try:
        dns = parse_resolv_conf(_read_text(path))
    except OSError as error:
        raise StateFailure(f"ipam.resolvConf {path} cannot be read: {error.strerror}") from None
    for key, items in dns.items():
        if isinstance(items, list) and len(items) > LIST_ITEMS:
            raise StateFailure(describe_excess(f"ipam.resolvConf {path}", key, len(items), LIST_ITEMS))
    return dns


def _read_text(path: str) -> str:
    """Return the text of a file that the configuration names, which may be a link. Raises OSError."""
    return read_regular(path, FILE_BYTES, follow=True).decode(errors="replace")


def _previous_addresses(request: Request, sets: tuple[RangeSet, ...]) -> list[tuple[str, tuple[int, int]]]:
    """Return the addresses of prevResult that are in our range sets, as text and value."""
    if request.conf.get("prevResult") is None:
        return []
    from ipam.protocol.address import parse_cidr
    from ipam.protocol.result import parse_result

    before = parse_result(request.conf["prevResult"], request.version)
    found = [(item.address, parse_cidr(item.address)[0]) for item in before.ips]
    return [(text, address) for text, address in found if any(range_of(one, address) for one in sets)]


def _valid_containers(conf: Mapping[str, object]) -> set[str]:
    """Return the containers of the valid attachments (C16).

    Some runtimes list only their eth0 attachments, so one valid attachment keeps all of its container's (C17).
    """
    containers = set()
    for index, item in enumerate(find_valid_attachments(conf)):
        container = item.get("containerID") if isinstance(item, dict) else None
        if not isinstance(container, str) or not container:
            raise InvalidConfiguration(f"{VALID_KEYS[0]}[{index}] has no containerID", "nothing was released")
        containers.add(container)
    return containers


if __name__ == "__main__":
    sys.exit(main())
