"""attach.gc on a real namespace, with a fake sysfs: what it releases, and what it logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ib_sriov_cni.attach.gc import collect
from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.core.configuration import parse_netconf
from tests.netns.attachment import Attached
from tests.netns.conftest import Sandbox
from tests.unit.trees import VF


@pytest.fixture
def attached(sandbox: Sandbox, tmp_path: Path) -> Iterator[Attached]:
    made = Attached(tmp_path, sandbox)
    with made.host:
        yield made


def run_gc(attached: Attached) -> list[str]:
    """Run GC with an empty list of valid attachments; return the lines about the attachment."""
    request = make_del_request(attached.record)
    collect(attached.host, request, parse_netconf(request, lenient=True))
    return [line for line in (attached.root / "log").read_text().splitlines() if "step=collect " in line]


@pytest.mark.parametrize("lives", [True, False])
def test_the_log_says_what_was_released(attached: Attached, *, lives: bool) -> None:
    if not lives:
        attached.sandbox.remove()
        attached.return_devices()
    attached.host.ownership.disclaim(VF, attached.record.key)  # then no device is touched
    assert [f"released={not lives} " in line for line in run_gc(attached)] == [True]
    assert (attached.host.records.read(attached.record.key) is None) != lives


def test_c17_a_namespace_that_is_not_at_its_path_is_not_taken_for_gone(attached: Attached) -> None:
    with attached.sandbox.open():
        attached.sandbox.remove()
        assert ["released=False " in line for line in run_gc(attached)] == [True]
    assert attached.host.records.read(attached.record.key) is not None


def test_c17_another_namespace_at_its_path_proves_nothing(
    attached: Attached, new_sandbox: Callable[[], Sandbox]
) -> None:
    attached.change(netns_path=new_sandbox().path)
    assert ["released=False " in line for line in run_gc(attached)] == [True]
