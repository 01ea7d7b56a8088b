"""Value classes without code generation: what dataclasses give, at no start-up cost.

`dataclasses` compiles text for every class and pulls in `re` and `inspect`; a CNI call lives for
milliseconds. A subclass of `Value` has its annotated names for fields and its class attributes for defaults;
its objects are keyword-only, frozen, comparable and hashable.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_options: bool) -> object:
        """Stand in for typing's marker, which type checkers alone read."""
        return lambda function: function


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value:
    """Base of the value classes; fields of bases come first.

    The methods are inherited and never put into a class that is there already: for each of them Python would look
    through the slots of that class again.
    """

    _fields: ClassVar[dict[str, None]] = {}
    _defaults: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls) -> None:
        """Note the fields and their defaults."""
        own = cls.__dict__
        names = [name for name, kind in own.get("__annotations__", {}).items() if "ClassVar" not in str(kind)]
        cls._fields = {**cls._fields, **dict.fromkeys(names)}
        cls._defaults = {**cls._defaults, **{name: own[name] for name in names if name in own}}

    def __init__(self, **given: object) -> None:
        """Take the fields by name."""
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
        """Compare all fields; another class is never equal."""
        if type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        """Hash all fields."""
        return hash((type(self), *[self.__dict__[name] for name in self._fields]))

    def __repr__(self) -> str:
        """Give what would make the same again."""
        fields = ", ".join([f"{name}={self.__dict__[name]!r}" for name in self._fields])
        return f"{type(self).__name__}({fields})"

    def __setattr__(self, name: str, _value: object) -> None:
        """Refuse."""
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        """Refuse."""
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")


def replace(obj: T, **changes: object) -> T:
    """Give a copy of a value object in which the named fields have new values."""
    return type(obj)(**{**obj.__dict__, **changes})
