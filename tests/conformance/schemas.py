"""JSON Schemas of what a plugin prints, written from the specification's chapters on results, per version (C5, C7).

Nothing else may be in a document: additional properties are refused everywhere.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
CIDR4 = r"^[0-9.]+/[0-9]+$"
CIDR6 = r"^[0-9a-f:]*:[0-9a-f:]*/[0-9]+$"


def thing(required: str, optional: str = "", **special: Any) -> dict[str, Any]:
    """An object with members of text, but for the special ones."""
    names = [*required.split(), *optional.split()]
    return {
        "type": "object",
        "properties": {name: special.get(name, TEXT) for name in names},
        "required": required.split(),
        "additionalProperties": False,
    }


def many(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item}


ERROR = {
    **thing("cniVersion code msg", "details", code={"type": "integer", "minimum": 1}),
    "required": ["cniVersion", "code", "msg", "details"],
}
DNS = thing("", "nameservers domain search options", nameservers=many(TEXT), search=many(TEXT), options=many(TEXT))
OLD_ROUTES = many(thing("dst", "gw"))
NEW_ROUTES = many(
    thing(
        "dst",
        "gw mtu advmss priority table scope",
        mtu=NUMBER,
        advmss=NUMBER,
        priority=NUMBER,
        table=NUMBER,
        scope=NUMBER,
    )
)
ADDRESS = {"type": "string", "anyOf": [{"pattern": CIDR4}, {"pattern": CIDR6}]}


def legacy(version: str) -> dict[str, Any]:
    """0.1.0 and 0.2.0: one address of each family, with its routes; no interfaces."""
    family4 = thing("ip", "gateway routes", ip={"type": "string", "pattern": CIDR4}, routes=OLD_ROUTES)
    family6 = thing("ip", "gateway routes", ip={"type": "string", "pattern": CIDR6}, routes=OLD_ROUTES)
    return thing("cniVersion", "ip4 ip6 dns", cniVersion={"const": version}, ip4=family4, ip6=family6, dns=DNS)


def current(version: str, *, family: bool, newest: bool) -> dict[str, Any]:
    """0.3.0 on: interfaces, addresses that point to them, routes."""
    interface = thing("name", "mac sandbox" + (" mtu socketPath pciID" if newest else ""), mtu=NUMBER)
    ip = thing(
        "address" + (" version" if family else ""),
        "gateway interface",
        version={"enum": ["4", "6"]},
        address=ADDRESS,
        interface=NUMBER,
    )
    return thing(
        "cniVersion",
        "interfaces ips routes dns",
        cniVersion={"const": version},
        interfaces=many(interface),
        ips=many(ip),
        routes=NEW_ROUTES if newest else OLD_ROUTES,
        dns=DNS,
    )


RESULTS = {
    "0.1.0": legacy("0.1.0"),
    "0.2.0": legacy("0.2.0"),
    "0.3.0": current("0.3.0", family=True, newest=False),
    "0.3.1": current("0.3.1", family=True, newest=False),
    "0.4.0": current("0.4.0", family=True, newest=False),
    "1.0.0": current("1.0.0", family=False, newest=False),
    "1.1.0": current("1.1.0", family=False, newest=True),
}
VERSION_INFO = thing("cniVersion supportedVersions", supportedVersions=many(TEXT))
