"""With which of root's powers the plugin works: docs/hardening.md names them, and no more are needed."""

from __future__ import annotations

import pytest

from tests.lab.cni import PROJECT, Cni
from tests.lab.modes import SHARED
from tests.lab.rig import Rig

NEEDED = ("sys_admin", "net_admin")
PAGE = PROJECT / "docs/hardening.md"
LIMITED = "setpriv --inh-caps=-all --bounding-set"


def with_rights(*capabilities: str) -> Cni:
    """The plugin, started by a root that has these capabilities alone."""
    cni = Cni()
    cni.command = [*LIMITED.split(), ",".join(["-all", *(f"+{name}" for name in capabilities)]), *cni.command]
    return cni


def test_two_capabilities_are_enough(rig: Rig) -> None:
    cni = with_rights(*NEEDED)
    pod = rig.pod()
    conf = rig.conf(guid="02:11:22:33:44:55:66:77", link_state="enable", pkey="0xffff", mtu=1500)
    added = cni("ADD", pod, conf)
    assert added.status == 0, added.stdout
    checked = cni("CHECK", pod, {**conf, "prevResult": added.out})
    assert (checked.status, checked.stdout) == (0, "")
    collected = cni("GC", None, {**conf, "cni.dev/valid-attachments": []})
    assert (collected.status, collected.stdout) == (0, ""), collected.stdout
    deleted = cni("DEL", pod, conf)
    assert (deleted.status, deleted.stdout) == (0, ""), deleted.stdout
    rig.assert_as_before()


@SHARED
@pytest.mark.parametrize("missing", NEEDED)
def test_neither_can_be_left_out(rig: Rig, missing: str) -> None:
    """And whoever leaves one out gets an error and the host as it was."""
    cni = with_rights(*(name for name in NEEDED if name != missing))
    pod = rig.pod()
    conf = rig.conf(guid="02:11:22:33:44:55:66:77", link_state="enable")
    refused = cni("ADD", pod, conf)
    assert refused.status == 1
    assert refused.code == 102
    rig.delete(pod)
    rig.assert_as_before()


def test_the_documentation_names_them() -> None:
    part = PAGE.read_text().partition("## The plugin")[2].partition("## ")[0]
    for name in NEEDED:
        assert f"`{name.upper()}`" in part
