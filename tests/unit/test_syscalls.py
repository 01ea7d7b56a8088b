"""ib_sriov_cni.kernel.syscalls: a system call that fails reports the kernel's own errno, without the ctypes package."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from ib_sriov_cni.kernel.syscalls import await_end, set_network_namespace
from tests.unit.test_hotpath import path_of_the_source

# Run by a bare interpreter, with as few modules loaded as in the packed program.
CALL = """
import sys; sys.path[:0] = {path!r}
from ib_sriov_cni.kernel.syscalls import _call
try:
    _call({call})
except OSError as fault:
    print(fault.errno, fault.strerror)
assert "ctypes" not in sys.modules
"""


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ('"mount", None, b"/nonexistent", None, 0, None', errno.ENOENT),
        ('"setns", 987, 0x40000000', errno.EBADF),
        ('"prctl", 987654, 0, 0, 0, 0', errno.EINVAL),
        ('"unshare", 1', errno.EINVAL),
    ],
)
def test_a_failing_call_reports_the_kernels_errno(call: str, number: int) -> None:
    code = CALL.format(path=path_of_the_source(), call=call)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    name = call.partition(",")[0].strip('"')
    assert done.stdout == f"{number} {name}: {os.strerror(number)}\n"


def test_a_call_that_succeeds_raises_nothing() -> None:
    code = CALL.format(path=path_of_the_source(), call='"prctl", 1, 9, 0, 0, 0')
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_setns_with_a_file_that_is_not_a_namespace() -> None:
    """However this Python makes the call (os.setns since 3.12)."""
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            set_network_namespace(fd)
    finally:
        os.close(fd)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        set_network_namespace(fd)
    assert caught.value.errno == errno.EBADF


def test_await_end_returns_none_while_the_child_lives() -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        assert await_end(child.pid, 0.0) is None
    finally:
        child.kill()
        child.wait()
