"""attach.gc on a real namespace, with a fake sysfs: what it logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ib_sriov_cni.attach.gc import collect
from ib_sriov_cni.attach.host import Host
from ib_sriov_cni.attach.recorded_request import make_del_request
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.value import replace
from tests.netns.conftest import Sandbox
from tests.unit.trees import RECORD, VF, Tree


@pytest.mark.parametrize("lives", [True, False])
def test_the_log_says_what_was_released(sandbox: Sandbox, tmp_path: Path, *, lives: bool) -> None:
    tree = Tree(tmp_path / "sys")
    tree.add_pf()
    tree.add_vf(VF, 0)
    places = {"state_dir": tmp_path / "state", "lock_dir": tmp_path / "run", "sysfs_root": tmp_path / "sys"}
    host = Host(log=Log(path=str(tmp_path / "log")), **{name: str(path) for name, path in places.items()})
    conf = {"cniVersion": "1.1.0", "name": RECORD.key.network, "type": "ib-sriov", "cni.dev/valid-attachments": []}
    path = sandbox.path if lives else "/run/netns/gone"
    record = replace(
        RECORD, committed=True, boot_id=host.read_boot_id(), netns_path=path, netns_cookie=0, conf=conf, args=""
    )
    host.records.write(replace(record, committed=False))
    host.records.write(record)
    request = make_del_request(record)
    collect(host, request, parse_netconf(request, lenient=True))
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "step=collect " in line]
    assert [f"released={not lives} " in line for line in lines] == [True]
    assert (host.records.read(record.key) is None) != lives
