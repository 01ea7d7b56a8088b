"""ib_sriov_cni.kernel.stand_ins: stand-in modules for a library while it loads, tried with the real pyverbs."""

from __future__ import annotations

import os
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
SYSTEM = [path for path in sys.path if path.endswith("-packages")]


def run(code: str) -> str:
    """Run code in a bare interpreter; return what it printed."""
    text = f"import sys; sys.path[:0] = {[ROOT, *SYSTEM]!r}\n{code}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_lent_is_taken_back() -> None:
    code = """
from ib_sriov_cni.kernel.stand_ins import StandIns, anything
with StandIns({"colorsys": {"rgb": anything}, "sys": {"nothing": 1}}):
    import colorsys
    import sys as same
    assert colorsys.rgb[0](1).x | 2 is anything
    assert same is sys, "what is loaded stays"
assert "colorsys" not in sys.modules
import colorsys
assert colorsys.rgb_to_hsv(1, 1, 1) == (0.0, 0.0, 1)
"""
    run(code)


def test_taken_back_after_a_fault() -> None:
    code = """
from ib_sriov_cni.kernel.stand_ins import StandIns
try:
    with StandIns({"colorsys": {}}):
        raise KeyError
except KeyError:
    assert "colorsys" not in sys.modules
"""
    run(code)


# What pyverbs may load besides its own modules. A failure here means that a newer pyverbs loads one more.
OF_PYVERBS = {"struct", "_struct", "_weakref", "cython_runtime"}


def test_the_real_pyverbs_loads_with_them() -> None:
    """Its constants are not built and opening a context fails cleanly; the real modules would load thirty more."""
    code = """
import os
from ib_sriov_cni.kernel import pyverbs_loader
before = set(sys.modules)
context = pyverbs_loader.load_context()
import pyverbs.device
assert context is pyverbs.device.Context
assert "pyverbs.enums" not in sys.modules
try:
    context(name="no-such-device")
except pyverbs.pyverbs_error.PyverbsError as fault:
    assert "no-such-device" in str(fault) or "device" in str(fault).lower(), fault
else:
    raise AssertionError("there is such a device")
print(*sorted(name for name in set(sys.modules) - before if not name.startswith(("pyverbs", "_cython"))))
"""
    loaded = set(run(code).split())
    assert loaded <= OF_PYVERBS | {"ib_sriov_cni.kernel.stand_ins"}, loaded - OF_PYVERBS


def test_a_pyverbs_that_needs_more_gets_the_real_ones() -> None:
    code = """
import os, tempfile
with tempfile.TemporaryDirectory() as folder:
    os.mkdir(folder + "/pyverbs")
    open(folder + "/pyverbs/__init__.py", "w").close()
    with open(folder + "/pyverbs/device.py", "w") as file:
        file.write("import enum\\nclass State(enum.Enum):\\n    UP = 1\\nclass Context:\\n    state = State.UP\\n")
    for name in ("enum", "collections", "weakref", "ctypes", "resource", "logging"):
        sys.modules.pop(name, None)
    sys.path.insert(0, folder)
    from ib_sriov_cni.kernel import pyverbs_loader
    print(pyverbs_loader.load_context().state.name)
"""
    assert run(code) == "UP"
