"""resolv.conf as host-local reads it for `resolvConf` (H7)."""

from __future__ import annotations

from ipam.errors import StateFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE_MAX = 1 << 20  # bytes


def parse_resolv_conf(text: str) -> dict[str, object]:
    """Give nameservers, domain, search and options, as the `dns` of a result has them."""
    lists: dict[str, list[str]] = {"nameservers": [], "search": [], "options": []}
    domain = ""
    for line in text.split("\n"):
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            lists["nameservers"].append(words[1])
        elif words[0] == "domain":
            domain = words[1]
        elif words[0] in ("search", "options"):
            lists[words[0]] += words[1:]
    dns: dict[str, object] = {key: items for key, items in lists.items() if items}
    if domain:
        dns["domain"] = domain
    return dns


def read_resolv_conf(path: str) -> Mapping[str, object]:
    """Read the file; StateFailure if that fails."""
    try:
        with open(path, "rb") as file:
            return parse_resolv_conf(file.read(_FILE_MAX).decode(errors="replace"))
    except OSError as error:
        raise StateFailure(f"ipam.resolvConf {path} cannot be read: {error.strerror}") from None
