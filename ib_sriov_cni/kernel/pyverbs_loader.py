"""Loads pyverbs.device without the modules that pyverbs imports and barely uses.

What it buys: pyverbs imports logging, enum, collections, weakref and ctypes for a logger nobody reads and for classes
of constants nobody prints; they are 30 of the 40 ms that its import takes (docs/performance.md).
What it risks: a pyverbs that wants more of them fails to load with the stand-ins. Then everything that was imported is
dropped and pyverbs is loaded anew with the real modules, so a failure costs time, never a half-loaded library.
Which test notices: tests/unit/test_standins.py and tests/netns/test_verbs.py.
How to take it out: make `load_context` a plain `from pyverbs.device import Context`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_Namespace = type(sys.implementation)  # types.SimpleNamespace


def load_context() -> Any:
    """Give the class pyverbs.device.Context. Raises what importing pyverbs raises."""
    import _weakref

    from ib_sriov_cni.kernel.stand_ins import StandIns, anything

    modules: dict[str, dict[str, object]] = {
        "logging": dict.fromkeys(("getLogger", "basicConfig", "StreamHandler", "Formatter"), anything) | {"INFO": 20},
        "enum": {"IntEnum": _constants, "IntFlag": _constants},
        "collections": {"OrderedDict": dict},
        "weakref": {"WeakSet": set, "ref": _weakref.ref, "proxy": _weakref.proxy},
        "ctypes": {},
        "resource": {},
    }
    before = set(sys.modules)
    try:
        with StandIns(modules):
            from pyverbs.device import Context
    except Exception:  # noqa: BLE001  # whatever it misses, the real modules have it
        for name in set(sys.modules) - before:
            del sys.modules[name]
        from pyverbs.device import Context
    return Context


def _constants(_name: str, members: dict[str, int], **_how: object) -> object:
    """Stand in for IntEnum's making of a class by a call: plain numbers with a name each; a class costs far more."""
    return _Namespace(**members)
