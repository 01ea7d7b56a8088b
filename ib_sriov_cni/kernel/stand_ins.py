"""Modules that stand in for slow ones while a library is loaded that needs next to nothing of them.

pyroute2.netlink and pyverbs import `logging`, `enum`, `collections` and the like for a logger nobody reads, for
classes of constants nobody prints. Together they cost more than the rest of a CNI call (docs/performance.md). What
they take is given here, each by the C half of the real module where it has one. A module that is loaded already is
left as it is; nothing of this stays behind in sys.modules, so whoever imports one of them later gets the real one.

tests/unit/test_nlmsg.py and tests/unit/test_standins.py say when a new pyroute2 or pyverbs needs more.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


class Anything:
    """Has every attribute, can be called and indexed; each gives the same again."""

    def __getattr__(self, _name: str) -> Anything:
        return self

    def __getitem__(self, _key: object) -> Anything:
        return self

    def __call__(self, *_args: object, **_kwargs: object) -> Anything:
        return self

    def __or__(self, _other: object) -> Anything:
        return self

    __ror__ = __or__


anything = Anything()


class StandIns:
    """`with StandIns({"logging": {"getLogger": anything}}):` for the import of a library."""

    def __init__(self, modules: Mapping[str, Mapping[str, object]]) -> None:
        """Take a module's name with its attributes."""
        self._modules = modules
        self._made: list[str] = []

    def put(self, name: str, module: object) -> None:
        """Have one module more until the end."""
        sys.modules[name] = module  # type: ignore[assignment]  # a stand-in need not be a module
        self._made.append(name)

    def __enter__(self) -> Self:
        """Put in place what is not loaded."""
        for name, attributes in self._modules.items():
            if name not in sys.modules:
                module = type(sys)(name)
                module.__dict__.update(attributes)
                self.put(name, module)
        return self

    def __exit__(self, *_fault: object) -> None:
        """Take all of them away."""
        for name in self._made:
            sys.modules.pop(name, None)
        self._made.clear()
