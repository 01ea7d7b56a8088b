"""A caller that cannot see the namespaces of living pods: whatever it runs, it takes no VF away from them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.lab.cni import PROJECT
from tests.lab.commands import run
from tests.lab.rig import Rig, guid_of

CONF: dict[str, Any] = {"guid": guid_of(1)}
NOTHING_VALID: dict[str, Any] = {"cni.dev/valid-attachments": []}
WITHOUT_NAMESPACES = ["unshare", "--mount", "sh", "-c", 'umount -l /run/netns/* /run/netns; exec "$@"', "sh"]
# The namespace is opened before /run/netns is away; there it has a sysfs of its own.
ENTER = """
exec 9<"$0"
umount -l /run/netns/* /run/netns
umount -l /sys
exec nsenter --net=/proc/self/fd/9 sh -c 'mount -t sysfs sysfs /sys; exec "$@"' sh "$@"
"""
INSIDE = ["unshare", "--mount", "sh", "-c", ENTER]
PLUGIN = [sys.executable, "-m", "ib_sriov_cni"]


def call(wrap: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run our command line as that caller."""
    return subprocess.run([*wrap, *PLUGIN, *words], cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("inside", [False, True], ids=["another mount namespace", "inside the pod"])
def test_gc_and_repair_leave_a_living_pod_alone(rig: Rig, *, inside: bool) -> None:
    pod = rig.pod()
    result = rig.add(pod, **CONF)
    wrap = [*INSIDE, pod.netns] if inside else WITHOUT_NAMESPACES
    for words in (("gc",), ("repair",)):
        done = call(wrap, *words)
        assert "released" not in done.stdout, done
    conf = json.dumps(rig.conf(None, **NOTHING_VALID))
    environ = rig.cni.environment("GC", None)
    done = subprocess.run(
        [*wrap, *PLUGIN], cwd=PROJECT, env=environ, input=conf, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    assert rig.check(pod, result, **CONF).status == 0
    rig.delete(pod, **CONF)
    rig.assert_as_before()


def test_add_refuses_its_vf_and_del_releases_it(rig: Rig) -> None:
    """The namespace lives on without a path: nothing proves that the pod is gone, until the runtime says so."""
    pod, other = rig.pod(), rig.pod()
    rig.add(pod, **CONF)
    command = ["ip", "netns", "exec", pod.name, "sh", "-c", "echo there; exec sleep 600"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "there\n"
        run(["ip", "netns", "del", pod.name])
        refused = rig.call("ADD", other, **CONF)
        assert refused.code == 101, refused
        assert "not proved" in refused.out["msg"]
        assert f"ib-sriov del --force ibnet/{pod.container_id}:net1" in refused.out["details"]
        rig.delete(pod, **CONF)
        rig.add(other, **CONF)
        rig.delete(other, **CONF)
        rig.assert_as_before()
    finally:
        holder.kill()
        holder.communicate()
