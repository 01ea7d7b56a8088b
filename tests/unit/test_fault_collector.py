"""ib_sriov_cni.core.fault_collector: every step runs, even if others fail (C14)."""

from __future__ import annotations

import pytest

from ib_sriov_cni.core.errors import CniError, KernelRefused, StateFailure
from ib_sriov_cni.core.fault_collector import FaultCollector
from ib_sriov_cni.kernel.syscalls import Terminated


def test_c14_a_fault_keeps_no_other_step_from_running() -> None:
    done: list[str] = []

    def fail(fault: Exception) -> None:
        raise fault

    collector = FaultCollector()
    assert not collector.attempt(lambda: fail(StateFailure("disk full", "make room")))
    assert collector.attempt(lambda: done.append("second"))
    assert not collector.attempt(lambda: fail(ZeroDivisionError("a defect")))
    assert collector.attempt(lambda: done.append("fourth"))
    assert done == ["second", "fourth"]
    with pytest.raises(CniError) as caught:
        collector.raise_faults()
    assert caught.value.code == 106
    assert caught.value.msg == "disk full; ZeroDivisionError: a defect"
    assert caught.value.details == "make room"


def test_the_only_fault_is_raised_as_it_is() -> None:
    refusal = KernelRefused("bind to mlx5_core", "VF 0000:3b:00.2", 16)

    def fail() -> None:
        raise refusal

    collector = FaultCollector()
    collector.attempt(fail)
    with pytest.raises(KernelRefused) as caught:
        collector.raise_faults()
    assert caught.value is refusal
    assert caught.value.msg == "bind to mlx5_core VF 0000:3b:00.2: Device or resource busy"


def test_an_internal_fault_alone_has_code_100() -> None:
    collector = FaultCollector()
    collector.attempt(lambda: int("x"))
    with pytest.raises(CniError) as caught:
        collector.raise_faults()
    assert caught.value.code == 100
    assert "ValueError" in caught.value.msg


def test_nothing_went_wrong() -> None:
    collector = FaultCollector()
    assert collector.attempt(lambda: None)
    collector.raise_faults()
    assert collector.faults == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_an_interrupt_is_no_fault_of_a_step(kind: type[BaseException]) -> None:
    def interrupt() -> None:
        raise kind

    collector = FaultCollector()
    with pytest.raises(kind):
        collector.attempt(interrupt)
