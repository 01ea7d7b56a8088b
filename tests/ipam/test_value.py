"""ipam.protocol.value against dataclasses: same construction, comparison and errors."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from ipam.protocol.value import Value, replace


class Point(Value):
    x: int
    y: int = 2


class Named(Point):
    name: str
    tags: tuple[str, ...] = ()


def test_defaults_and_keywords() -> None:
    assert (Point(x=1).x, Point(x=1).y) == (1, 2)
    assert Named(x=1, name="a") == Named(x=1, y=2, name="a", tags=())


def test_positional_missing_and_unknown_are_refused() -> None:
    make: type = Named
    with pytest.raises(TypeError):
        make(1)
    with pytest.raises(TypeError, match=r"missing.*name"):
        make(x=1)
    with pytest.raises(TypeError, match=r"unknown.*z"):
        make(x=1, name="a", z=1)
    with pytest.raises(TypeError, match=r"missing.*name"):
        make(x=1, z=1)


def test_frozen() -> None:
    point = Point(x=1)
    with pytest.raises(AttributeError):
        setattr(point, "x", 2)  # noqa: B010 - a plain assignment would not pass mypy, which is the point
    with pytest.raises(AttributeError):
        delattr(point, "x")
    assert point.x == 1


def test_equal_and_hash() -> None:
    assert Point(x=1) == Point(y=2, x=1)
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Named(x=1, name="")
    assert len({Point(x=1), Point(x=1, y=2), Point(x=2)}) == 2


def test_replace_copies() -> None:
    point = Point(x=1)
    assert replace(point, y=5) == Point(x=1, y=5)
    assert point == Point(x=1)
    with pytest.raises(TypeError):
        replace(point, z=5)


def test_copy_and_pickle_keep_the_value() -> None:
    named = Named(x=1, name="n", tags=("a",))
    assert copy.copy(named) == copy.deepcopy(named) == pickle.loads(pickle.dumps(named)) == named  # noqa: S301 - our own bytes


def test_repr_names_every_field() -> None:
    assert repr(Named(x=1, name="n")) == "Named(x=1, y=2, name='n', tags=())"


def test_start_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); "
        "from ipam.protocol import edge, fastjson, request, result, value;"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    heavy = {
        "typing",
        "dataclasses",
        "enum",
        "logging",
        "json",
        "re",
        "ipaddress",
        "socket",
        "subprocess",
        "pathlib",
        "contextlib",
        "argparse",
        "asyncio",
        "tempfile",
        "shutil",
        "collections",
    }
    assert not heavy & set(eval(done.stdout))  # noqa: S307 - a list of names printed by the line above
