"""Loads pyverbs.device without the modules that pyverbs imports and barely uses.

Why: pyverbs imports logging, enum, collections, weakref and ctypes for a logger that we do not use and for classes of
constants that we do not print; they take 30 of its 40 ms (docs/performance.md).
Risk: a pyverbs that needs more of them cannot be loaded with the stand-ins. Then everything that was imported is
dropped and pyverbs is loaded again with the real modules: that costs time, but never leaves a half-loaded library.
Tests: tests/unit/test_standins.py and tests/netns/test_verbs.py.
To remove it: make `load_context` a plain `from pyverbs.device import Context`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_Namespace = type(sys.implementation)  # types.SimpleNamespace


def load_context() -> Any:
    """Return the class pyverbs.device.Context. Raises what importing pyverbs raises, such as ImportError."""
    import _weakref

    from ib_sriov_cni.kernel.stand_ins import StandIns, anything

    modules: dict[str, dict[str, object]] = {
        "logging": dict.fromkeys(("getLogger", "basicConfig", "StreamHandler", "Formatter"), anything) | {"INFO": 20},
        "enum": {"IntEnum": _constants, "IntFlag": _constants},
        "collections": {"OrderedDict": dict},
        "weakref": {"WeakSet": set, "ref": _weakref.ref, "proxy": _weakref.proxy},
        "ctypes": {},
        "resource": {},
        # A module of nothing but constants, which takes two fifths of the whole; pyverbs.utils prints them.
        "pyverbs.enums": {},
    }
    before = set(sys.modules)
    try:
        with StandIns(modules):
            from pyverbs.device import Context
    except Exception:  # noqa: BLE001  # whatever it lacked, the real modules have
        for name in set(sys.modules) - before:
            del sys.modules[name]
        from pyverbs.device import Context
    return Context


def _constants(_name: str, members: dict[str, int], **_how: object) -> object:
    """Stand in for IntEnum("Name", {...}): an object with plain numbers, which is much cheaper to make than a class."""
    return _Namespace(**members)
