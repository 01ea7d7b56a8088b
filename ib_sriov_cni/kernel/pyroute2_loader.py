"""Loads pyroute2.netlink, which encodes and decodes netlink messages, without the rest of pyroute2.

Why: `import pyroute2` runs a package __init__ that loads 368 modules (asyncio, ssl, sqlite3 ...), which takes longer
than a whole ADD. Here only that one module is run, below an empty `pyroute2` package, with stand-ins (stand_ins.py)
for logging, typing and the like (docs/performance.md).
Risk: a pyroute2 whose netlink module needs more than the stand-ins have. Then the import fails at once; it never
works by half. setup.cfg limits the version.
Test: tests/unit/test_nlmsg.py.
To remove it: make `load_netlink` a plain `import pyroute2.netlink`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AF_MPLS = 28  # include/linux/socket.h


def load_netlink() -> object:
    """Return the module pyroute2.netlink, loaded alone unless pyroute2 is loaded already. Raises ImportError."""
    if "pyroute2" in sys.modules:
        import pyroute2.netlink

        return pyroute2.netlink
    import _collections  # type: ignore[import-not-found]  # no stubs
    import _functools  # type: ignore[import-not-found]  # no stubs
    import _socket
    import _thread
    import _weakref

    from ib_sriov_cni.kernel.stand_ins import StandIns, anything

    package = _empty_module("pyroute2", None)
    public = {name: item for name, item in _socket.__dict__.items() if not name.startswith("_")}
    modules = {
        "logging": {"getLogger": anything},
        "traceback": {"format_exc": anything, "format_stack": anything},
        "typing": dict.fromkeys(("Any", "Callable", "Dict", "Literal", "Optional", "TypeVar", "Union"), anything),
        "socket": {"AddressFamily": int, **public},
        "threading": {"local": _thread._local, "Lock": _thread.allocate_lock, "RLock": _thread.RLock},  # noqa: SLF001  # as threading exports them
        "collections": {"OrderedDict": _collections.OrderedDict},
        "functools": {"partial": _functools.partial},
        "types": {"FunctionType": type(load_netlink)},
        "weakref": {"proxy": _weakref.proxy},
        # Of pyroute2's own modules, only these names are used. A message that cannot be decoded raises ValueError.
        "pyroute2.common": {"AF_MPLS": AF_MPLS, "basestring": (str, bytes), "hexdump": bytes.hex},
        "pyroute2.netlink.exceptions": {
            "NetlinkError": OSError,
            "NetlinkDecodeError": ValueError,
            "NetlinkNLADecodeError": ValueError,
        },
    }
    with StandIns(modules) as stand_ins:
        # Its __init__, which is what takes long, is not run. The real package can still be imported afterwards.
        stand_ins.put("pyroute2", package)
        base = _empty_module("pyroute2.netlink", package.__path__)
        stand_ins.put("pyroute2.netlink", base)
        base.__loader__.exec_module(base)
        return base


def _empty_module(name: str, path: object) -> Any:
    """Return a module whose code has not been run. Raises ImportError."""
    import _frozen_importlib

    spec = _frozen_importlib._find_spec(name, path)  # type: ignore[attr-defined]  # noqa: SLF001  # importlib.util costs more
    if spec is None:
        raise ImportError(f"{name} is not installed")
    return _frozen_importlib.module_from_spec(spec)
