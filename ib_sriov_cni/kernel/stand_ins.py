"""Modules that stand in for slow ones while a library is loaded that hardly uses them.

pyroute2.netlink and pyverbs import `logging`, `enum`, `collections` and the like for loggers that we do not use and
for classes of constants that we do not print. Together these take longer than the rest of a CNI call
(docs/performance.md). A stand-in has only the names that the library uses, from the C half of the real module if there
is one. A module that is loaded already is not replaced. No stand-in stays in sys.modules, so a later import gets the
real module.

tests/unit/test_nlmsg.py and tests/unit/test_standins.py fail if a new pyroute2 or pyverbs needs more.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


class Anything:
    """Has every attribute, and can be called, indexed and or-ed; the result is always the object itself."""

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
        """`modules`: attributes of each stand-in, by module name."""
        self._modules = modules
        self._made: list[str] = []

    def put(self, name: str, module: object) -> None:
        """Add one more module until the end of the block."""
        sys.modules[name] = module  # type: ignore[assignment]  # a stand-in need not be a module
        self._made.append(name)

    def __enter__(self) -> Self:
        """Put a stand-in for each module that is not loaded into sys.modules."""
        for name, attributes in self._modules.items():
            if name not in sys.modules:
                module = type(sys)(name)
                module.__dict__.update(attributes)
                self.put(name, module)
        return self

    def __exit__(self, *_fault: object) -> None:
        """Remove all stand-ins."""
        for name in self._made:
            sys.modules.pop(name, None)
        self._made.clear()
