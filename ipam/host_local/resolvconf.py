"""Parse resolv.conf as host-local does for `resolvConf` (H7)."""

from __future__ import annotations


def parse_resolv_conf(text: str) -> dict[str, object]:
    """Return nameservers, domain, search and options in the form of a result's `dns`. Other lines are ignored."""
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
