"""Frozen value classes, like dataclasses but without their start-up cost.

`dataclasses` compiles code for every class and imports `re` and `inspect`; a CNI call takes only milliseconds. The
annotated names of a subclass of `Value` are its fields, its class attributes their defaults. Objects are keyword-only,
frozen, comparable and hashable.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_options: bool) -> object:
        """Replace typing's marker, which only type checkers read."""
        return lambda function: function


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value:
    """Base of the value classes; fields of base classes come first.

    Methods are inherited, not set on each subclass: setting one makes Python update all slots of the class.
    """

    _fields: ClassVar[dict[str, None]] = {}
    _defaults: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls) -> None:
        """Collect the fields and their defaults."""
        own = cls.__dict__
        names = [name for name, kind in own.get("__annotations__", {}).items() if "ClassVar" not in str(kind)]
        cls._fields = {**cls._fields, **dict.fromkeys(names)}
        cls._defaults = {**cls._defaults, **{name: own[name] for name in names if name in own}}

    def __init__(self, **given: object) -> None:
        """Set the fields. Raises TypeError if one is missing or unknown."""
        state = self.__dict__
        state.update(self._defaults)
        state.update(given)
        names = self._fields
        if state.keys() == names.keys():
            return
        missing = [name for name in names if name not in state]
        unknown = [name for name in state if name not in names]
        state.clear()
        kind = type(self).__name__
        raise TypeError(f"{kind}: missing {missing}" if missing else f"{kind}: unknown {unknown}")

    def __eq__(self, other: object) -> bool:
        """Compare all fields. Objects of another class are never equal."""
        if type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        """Hash all fields."""
        return hash((type(self), *[self.__dict__[name] for name in self._fields]))

    def __repr__(self) -> str:
        """Return the expression that makes an equal object."""
        fields = ", ".join([f"{name}={self.__dict__[name]!r}" for name in self._fields])
        return f"{type(self).__name__}({fields})"

    def __setattr__(self, name: str, _value: object) -> None:
        """Raise AttributeError."""
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        """Raise AttributeError."""
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")


def replace(obj: T, **changes: object) -> T:
    """Return a copy of a value object with new values for the named fields."""
    return type(obj)(**{**obj.__dict__, **changes})
