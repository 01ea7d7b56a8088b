"""add and del by hand, and watch, on the emulated HCA: the namespace gets its VF, and the host is as before."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.lab.command_line import cli, json_of, running
from tests.lab.commands import wait
from tests.lab.rig import TRACE, Rig, answers, connected, guid_of

NETWORK = ("--ipam-subnet", "10.77.0.0/24", "--route", "10.99.0.0/16")


def test_two_namespaces_talk_and_leave_no_trace(rig: Rig) -> None:
    """One by its name, one by the pid of a process in it; everything is undone by del."""
    one, two = rig.pod("hand"), rig.pod("hand")
    isolate = ["--isolate"] if rig.exclusive else []
    words = ["--device", rig.hca.pci(0), "--netns", one.name, "--guid", guid_of(9), "--mtu", "2000", *NETWORK, *isolate]
    table = cli("add", *words, "--link-state", "enable")
    assert table.status == 0, str(table)
    assert ["GUID", guid_of(9)] in [line.split() for line in table.stdout.splitlines()]
    inhabitant = subprocess.Popen(["ip", "netns", "exec", two.name, "sleep", "600"])
    try:
        pid = str(inhabitant.pid)
        # ip becomes the sleep once it is inside
        assert wait(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()[:5], 20)
        result = json_of("add", "--device", rig.hca.pci(1), "--pid", pid, "--ifname", "ib7", *NETWORK, *isolate)
        assert result["interfaces"][0]["name"] == "ib7"
        assert result["ips"][0]["address"] == "10.77.0.3/24"
        assert one.addresses() == ["10.77.0.2/24"]
        assert two.addresses("ib7") == ["10.77.0.3/24"]
        assert rig.hca.link_state(0) == "enable"
        assert connected(one)
        assert connected(two, "ib7")
        assert answers(one, "10.77.0.3", 2)
        again = cli("add", "--device", rig.hca.pci(2), "--netns", one.name)
        assert again.status == 4
        assert "an interface of that name exists" in again.stderr
        taken = cli("add", "--device", rig.hca.pci(0), "--netns", one.name, "--ifname", "net2")
        assert taken.status == 4
        assert "is in use by container netns-" in taken.stderr
        assert cli("check").status == 0
        assert cli("del", "--netns", one.name).status == 0
        assert cli("del", "--netns", one.name).status == 3
        assert cli("del", "--pid", pid, "--ifname", "ib7").status == 0
        assert one.link() is None
    finally:
        inhabitant.kill()
        inhabitant.wait()
    rig.assert_as_before()


def test_an_add_that_is_interrupted_is_undone(rig: Rig) -> None:
    pod = rig.pod("hand")
    words = ("add", "--device", rig.hca.pci(0), "--netns", pod.name, *NETWORK)
    with running(*words, env={TRACE: "configure=stop"}) as process:
        assert wait(lambda: bool(rig.hca.netdevs(0, pod.name)), 60)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 4
    assert "interrupted by SIGTERM and undone" in err
    rig.assert_as_before()


def test_an_attachment_by_hand_whose_namespace_ends_is_collected(rig: Rig) -> None:
    pod = rig.pod("hand")
    words = ["add", "--device", rig.hca.pci(0), "--netns", pod.name, *NETWORK]
    if rig.exclusive:
        # The interface alone (rdmaIsolation false in exclusive mode) is allowed, with a note.
        without = cli(*words)
        assert without.status == 0, str(without)
        assert "no program in the namespace can open the RDMA device; add --isolate" in without.stderr
        assert pod.rdma() == []
        assert cli("del", "--netns", pod.name).status == 0
        words.append("--isolate")
    added = cli(*words)
    assert added.status == 0, str(added)
    pod.delete()
    assert wait(lambda: bool(rig.hca.netdevs(0)), 20)
    (released,) = json_of("gc", "--network", "by-hand")["attachments"]
    assert released["outcome"] == "released"
    rig.assert_as_before()


def test_watch_shows_an_attachment_and_its_end(rig: Rig) -> None:
    with running("watch", "-o", "json", "--interval", "0.5") as watch:
        assert watch.stdout is not None
        first = [json.loads(watch.stdout.readline()) for _ in range(rig.vfs)]
        assert {line["state"] for line in first} == {"free"}
        pod = rig.pod("seen")
        rig.add(pod, 0)
        seen = read_until(watch, "in use")
        assert seen["pci"] == rig.hca.pci(0)
        assert pod.container_id in seen["attachment"]
        rig.delete(pod, 0)
        assert read_until(watch, "free")["attachment"] is None
        watch.send_signal(signal.SIGINT)
        _, err = watch.communicate(timeout=60)
    assert watch.returncode == 0, err
    rig.assert_as_before()


def read_until(watch: subprocess.Popen[str], state: str) -> Any:
    assert watch.stdout is not None
    for text in watch.stdout:
        line = json.loads(text)
        if line["state"] == state:
            return line
    raise AssertionError(f"watch ended before {state}")


def test_watch_draws_on_a_terminal(rig: Rig) -> None:
    """^C ends it with status 0, and the terminal is given back as it was."""
    ours, theirs = pty.openpty()
    size = {"TERM": "xterm", "COLUMNS": "130", "LINES": "40"}
    with os.fdopen(ours, "rb", buffering=0), running("watch", env=size, terminal=theirs) as process:
        os.close(theirs)
        drawn = read_terminal(ours, rig.hca.pci(rig.vfs - 1).encode())
        assert b"\x1b[?1049h" in drawn
        process.send_signal(signal.SIGINT)
        rest = read_terminal(ours, None)
        assert process.wait(60) == 0
    assert b"\x1b[?1049l" in rest


def read_terminal(terminal: int, until: bytes | None) -> bytes:
    """Read until something is there, or to the end."""
    heard = b""
    while until is None or until not in heard:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # EIO: the last one has closed it
            part = b""
        if not part:
            assert until is None, heard
            break
        heard += part
    return heard
