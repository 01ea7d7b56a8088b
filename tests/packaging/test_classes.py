"""Classes made by the program's interpreter, which makes them in another way (packaging/interpreter/typeobject.patch).

The same script runs in this machine's own interpreter; both must say the same.
"""

from __future__ import annotations

import subprocess
import sys

from tests.packaging.test_interpreter import Run, interpreter, run

__all__ = ["interpreter", "run"]

SCRIPT = r"""
import hashlib, operator, sys

NAMES = [name for base in (int, float, str, list, dict, type, memoryview) for name in dir(base)]
NAMES += ["__iter__", "__next__", "__call__", "__get__", "__set__", "__delete__", "__del__", "__await__", "__aiter__"]
NAMES += ["__anext__", "__getattr__", "__matmul__", "__rmatmul__", "__imatmul__", "__iadd__", "__ipow__", "__index__"]
NAMES = sorted({name for name in NAMES if name.startswith("__")} - {"__class__", "__mro__", "__dict__", "__slots__"})
# What asks for a special method: by the C function of a slot, not by the name.
ASKED = [
    repr, str, hash, len, iter, next, bool, int, float, complex, bytes, dir, callable, operator.index, abs,
    operator.neg, operator.pos, operator.invert, sys.getsizeof, memoryview, list, dict, reversed,
]
BINARY = [getattr(operator, name) for name in "add sub mul matmul truediv floordiv mod pow lshift rshift and_ or_ xor "
    "eq ne lt le gt ge getitem contains concat iadd imul ipow imatmul delitem".split()]
ASKED += [divmod, format, *BINARY, lambda one: one(), lambda one: one[1:2], lambda one: one.missing,
    lambda one: setattr(one, "x", 1), lambda one: one.x, lambda one: delattr(one, "x"), lambda one: 1 + one,
    lambda one: [] + one, lambda one: "" + one,
    lambda one: operator.setitem(one, 1, 2), lambda one: pow(one, 2, 3)]

def answers(cls):
    found = []
    for make in (cls, lambda: cls(1), lambda: cls.__base__.__new__(cls)):
        try:
            one = make()
            break
        except BaseException as fault:
            found.append(type(fault).__name__)
    else:
        return found
    for ask in ASKED:
        try:
            answer = ask(one, *([1] if ask in BINARY else []))
            found.append(answer if type(answer) in (int, bool, float) and ask is not hash else type(answer).__name__)
        except BaseException as fault:
            found.append(type(fault).__name__)
    return found

class Method:
    def __init__(self, name): self.name, self.calls = name, 0
    def __get__(self, one, owner=None): return self.call
    def call(self, *given):
        self.calls += 1
        if self.calls % 3 == 0: raise IndexError  # ends a loop
        return self.name if "r" in self.name else NotImplemented

class Strange(str):
    pass

def bases():
    class Plain: pass
    class Child(Plain): __eq__ = object.__eq__
    class Listed(list): __add__ = lambda self, other: 7
    class Counted(int): __hash__ = None
    class Mixed(Listed, Plain): __len__ = lambda self: 3
    class Long: __slots__ = ("x",); __getitem__ = lambda self, key: "abc"[key]; __rpow__ = lambda self, other: 8
    class Meta(type): __call__ = lambda cls, *given: type.__call__(cls)
    class Made(metaclass=Meta): __iter__ = None
    return [(object,), (dict,), (list,), (int,), (str,), (tuple,), (set,), (float,), (Exception,), (Plain,), (Child,),
        (Listed,), (Counted,), (Mixed,), (Long,), (Made,), (Child, dict), (Long, Plain)]

count = len(bases())
for number in range(count):
    for name in [None, *NAMES]:
        said = []
        for value in (Method(name), None, dict.__len__):
            chosen = bases()[number]
            try:
                cls = type("X", chosen, {name: value} if name else {})
                below = type("Y", (cls,), {})
                odd = type("Z", (cls,), {Strange("__len__"): lambda self: 4})
            except BaseException as fault:
                said.append(type(fault).__name__)
                continue
            said += [answers(below), answers(odd)]
            # Afterwards, on the class and on an ancestor.
            for owner in (cls, chosen[0]):
                try:
                    setattr(owner, name or "__len__", value)
                    made = type("V", (cls,), {})
                    said.append(answers(made))
                    delattr(owner, name or "__len__")
                    said.append(answers(type("W", (cls,), {})))
                except BaseException as fault:
                    said.append(type(fault).__name__)
        print(number, name, hashlib.sha256(repr(said).encode()).hexdigest()[:12], len(said), flush=True)
"""


def test_special_methods_are_found_as_by_any_interpreter(run: Run) -> None:
    done = run(SCRIPT)
    assert done.returncode == 0, done.stderr
    own = subprocess.run([sys.executable, "-I", "-S", "-c", SCRIPT], capture_output=True, check=False)
    assert own.returncode == 0, own.stderr
    assert done.stdout.decode().splitlines() == own.stdout.decode().splitlines()
    assert len(done.stdout.splitlines()) > 1000
