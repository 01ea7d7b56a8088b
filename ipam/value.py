"""Value classes without code generation: what dataclasses give, at no start-up cost.

`dataclasses` compiles text for every class and pulls in `re` and `inspect`; a CNI call lives for
milliseconds. `@value` reads the annotations of a class, takes class attributes for defaults, and makes
its objects keyword-only, frozen, comparable and hashable.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_options: bool) -> object:
        """Stand in for typing's marker, which type checkers alone read."""
        return lambda function: function


def _init(self: object, **given: object) -> None:
    kind = type(self)
    state = self.__dict__
    state.update(kind.__defaults__)  # type: ignore[attr-defined]  # put there by `value`
    state.update(given)
    names: dict[str, None] = kind.__fields__  # type: ignore[attr-defined]  # put there by `value`
    if state.keys() == names.keys():
        return
    missing = [name for name in names if name not in state]
    unknown = [name for name in state if name not in names]
    state.clear()
    raise TypeError(f"{kind.__name__}: missing {missing}" if missing else f"{kind.__name__}: unknown {unknown}")


def _values(instance: object) -> tuple[object, ...]:
    state = instance.__dict__
    return tuple([state[name] for name in type(instance).__fields__])  # type: ignore[attr-defined]  # see `value`


def _eq(self: object, other: object) -> object:
    if type(self) is not type(other):
        return NotImplemented
    return self.__dict__ == other.__dict__


def _hash(self: object) -> int:
    return hash((type(self), _values(self)))


def _repr(self: object) -> str:
    fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in type(self).__fields__)  # type: ignore[attr-defined]  # see `value`
    return f"{type(self).__name__}({fields})"


def _refuse(self: object, name: str, *_value: object) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def value(cls: type[T]) -> type[T]:
    """Make a class of annotated names a frozen, keyword-only value class; fields of bases come first."""
    names: list[str] = []
    defaults: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        for name, annotation in base.__dict__.get("__annotations__", {}).items():
            if "ClassVar" in str(annotation):
                continue
            if name not in names:
                names.append(name)
            if name in base.__dict__:
                defaults[name] = base.__dict__[name]
    methods = {
        "__fields__": dict.fromkeys(names),
        "__defaults__": defaults,
        "__init__": _init,
        "__eq__": _eq,
        "__hash__": _hash,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
    }
    if "__repr__" not in cls.__dict__:
        methods["__repr__"] = _repr
    for name, method in methods.items():
        setattr(cls, name, method)
    return cls


def replace(obj: T, **changes: object) -> T:
    """Give a copy of a value object in which the named fields have new values."""
    return type(obj)(**{**obj.__dict__, **changes})
