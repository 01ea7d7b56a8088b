"""list, show, check, gc and repair on a node with living, dead and damaged attachments: what they say, and no more."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.lab.command_line import cli, json_of, running
from tests.lab.commands import run, wait
from tests.lab.pod import Pod
from tests.lab.rig import LEASES, STATE, TRACE, Rig, answers, connected, guid_of, leases
from tests.lab.snapshot import host_snapshot

WEEK = 7 * 86400


def vf_states(rig: Rig) -> dict[int, str]:
    doc = json_of("list")
    (pf,) = doc["pfs"]
    return {vf["index"]: vf["state"] for vf in pf["vfs"]}


def record_of(rig: Rig, pod: Pod) -> Path:
    return STATE / f"attachments/ibnet/{pod.container_id}:net1.json"


def test_a_node_with_living_dead_and_damaged_attachments(rig: Rig) -> None:
    """The whole of it: what list and show say of each, what gc and repair take away, what they leave."""
    live, dead, killed, damaged = [rig.pod(name) for name in ("live", "dead", "killed", "damaged")]
    names = "IgnoreUnknown=1;K8S_POD_NAMESPACE=train;K8S_POD_NAME="
    result = rig.cni("ADD", live, rig.conf(0, guid=guid_of(1)), env={"CNI_ARGS": f"{names}worker-0"})
    assert result.status == 0, result.stdout
    rig.add(dead, 1)
    assert rig.call("ADD", killed, 2, trace="configure=kill").status != 0
    rig.add(damaged, 3)
    dead.delete()
    record_of(rig, damaged).write_text("{half a rec")
    wait(lambda: bool(rig.hca.netdevs(1)), 20)
    states = vf_states(rig)
    assert states == {0: "in use", 1: "leftover", 2: "leftover", 3: states[3], **dict.fromkeys(range(4, 8), "free")}
    # In shared mode the RDMA device of the damaged one is here: only its netdev is away.
    assert states[3] == ("unmanaged" if rig.exclusive else "no netdev")

    say_what_is_there(rig, live, dead, killed, damaged)
    take_away_what_is_dead(rig)
    assert rig.check(live, result.out, guid=guid_of(1)).status == 0
    tidy_up_what_is_damaged(rig, damaged)
    # What it was called before stood in the record alone.
    run(f"ip link set {rig.hca.netdev(3)} name ib3")
    rig.delete(live, 0)
    rig.assert_as_before()


def say_what_is_there(rig: Rig, live: Pod, dead: Pod, killed: Pod, damaged: Pod) -> None:
    """list, show and check."""
    run_list = cli("list")
    assert run_list.status == 0, str(run_list)
    row = next(line for line in run_list.rows() if line.startswith(rig.hca.pci(0)))
    assert row.startswith(f"{rig.hca.pci(0)} eth100/0 in use train/worker-0 ibnet net1 10.56.0.2/24 {guid_of(1)}")
    assert str(record_of(rig, damaged)) in run_list.stderr
    assert len(cli("list", "--state", "leftover").rows()) == 2
    assert len(cli("list", "--network", "ibnet").rows()) == 3
    tree = cli("list", "--tree").stdout
    assert "PF eth100" in tree
    assert "pod train/worker-0" in tree
    shown = json_of("show", "worker-0")
    assert shown["differences"] == []
    assert shown["live"]["interface"]["name"] == "net1"
    assert shown["live"]["interface"]["portGuid"] == guid_of(1)
    assert shown["live"]["addresses"][0] == "10.56.0.2/24"
    assert "10.99.0.0/16 via 10.56.0.1" in shown["live"]["routes"]
    assert shown["live"]["rdmaInPod"] is rig.exclusive
    for name in (live.container_id[:8], rig.hca.pci(0)):
        assert json_of("show", name)["attachment"]["id"] == shown["attachment"]["id"]
    assert "Everything is as the record says." in cli("show", "worker-0").stdout
    gone = json_of("show", dead.container_id, status=1)
    assert "is gone" in gone["differences"][0]["words"]
    unfinished = json_of("show", killed.name, status=1)
    assert "never finished" in unfinished["differences"][0]["words"]
    assert cli("show", "nobody").status == 3
    checked = json_of("check", status=1)["attachments"]
    assert {each["pci"]: each["ok"] for each in checked} == {
        rig.hca.pci(0): True,
        rig.hca.pci(1): False,
        rig.hca.pci(2): False,
    }
    assert cli("check", "worker-0").status == 0


def take_away_what_is_dead(rig: Rig) -> None:
    """Gc --dry-run changes nothing; gc releases the two dead ones."""
    before = host_snapshot(rig.hca)
    would = json_of("gc", "--dry-run")["attachments"]
    assert {each["pci"]: each["outcome"] for each in would} == dict.fromkeys(
        (rig.hca.pci(1), rig.hca.pci(2)), "would be released"
    )
    assert json_of("repair", "--dry-run", status=1)["repairs"]
    assert host_snapshot(rig.hca).facts == before.facts
    done = json_of("gc")["attachments"]
    assert {each["pci"]: each["outcome"] for each in done} == dict.fromkeys(
        (rig.hca.pci(1), rig.hca.pci(2)), "released"
    )
    assert json_of("gc")["attachments"] == []
    assert leases() == ["10.56.0.2", "10.56.0.5"]  # the living one's, and that of the one nobody can read
    states = vf_states(rig)
    assert (states[0], states[1], states[2]) == ("in use", "free", "free")


def tidy_up_what_is_damaged(rig: Rig, damaged: Pod) -> None:
    """It is a finding; when its namespace is gone and it is old, repair tidies up."""
    plan = json_of("repair", status=1)
    assert plan["repairs"] == []
    assert any(str(record_of(rig, damaged)) in finding["what"] for finding in plan["findings"])
    damaged.delete()
    wait(lambda: bool(rig.hca.netdevs(3)), 20)
    rig.delete(damaged, 3)  # the runtime's DEL renames it, and releases its address
    damaged_record = record_of(rig, damaged).with_suffix(".json.damaged")
    assert damaged_record.exists()
    os.utime(damaged_record, (time.time() - WEEK - 60,) * 2)
    kinds = sorted(each["kind"] for each in json_of("repair")["repairs"])
    assert kinds == ["disown", "stray-file"]
    assert not damaged_record.exists()
    assert vf_states(rig)[3] == "free"


def test_repair_puts_right_what_can_be_under_traffic(rig: Rig) -> None:
    """Link state, interface, address, route, owner: each is found, put back, and the peer still answers."""
    one, two = rig.pod("one"), rig.pod("two")
    result = rig.add(one, 0, link_state="enable")
    rig.add(two, 1)
    (own,), (peer,) = one.addresses(), two.addresses()
    peer = peer.partition("/")[0]
    assert connected(one)
    assert connected(two)
    assert answers(one, peer, 2)
    pf = rig.hca.pf_netdev
    run(f"ip link set {pf} vf 0 state disable")
    run(f"ip -n {one.name} link set net1 down")
    run(f"ip -n {one.name} addr del {own} dev net1")
    os.unlink(STATE / "devices" / rig.hca.pci(0))
    plan = json_of("repair", "--dry-run", status=1)
    assert [each["kind"] for each in plan["repairs"]] == ["owner", "link-state", "up", "address", "route"]
    assert all(each["harmless"] for each in plan["repairs"])
    assert plan["findings"] == []
    done = json_of("repair")
    assert {each["outcome"] for each in done["repairs"]} == {"done"}, done
    assert rig.hca.link_state(0) == "enable"
    assert rig.check(one, result, link_state="enable").status == 0
    assert json_of("repair")["repairs"] == []
    assert connected(one)
    assert wait(lambda: answers(one, peer), 30)
    rig.delete(one, 0)
    rig.delete(two, 1)
    rig.assert_as_before()


def test_repair_leaves_to_people_what_would_touch_traffic(rig: Rig) -> None:
    pod = rig.pod("moved")
    rig.add(pod, 0, link_state="disable", portTimeout=0)
    run(f"ip -n {pod.name} link set net1 down")
    run(f"ip -n {pod.name} link set net1 name other")
    run(f"ip -n {pod.name} link set other up")
    run(f"ip link set {rig.hca.pf_netdev} vf 0 state auto")
    plan = json_of("repair", status=1)
    assert [(each["kind"], each["outcome"]) for each in plan["repairs"]] == [("link-state", "left: see --disruptive")]
    assert [each["what"] for each in plan["findings"]] == ["interface net1 was renamed to other"]
    assert rig.hca.link_state(0) == "auto"
    assert [each["outcome"] for each in json_of("repair", "--disruptive", status=1)["repairs"]] == ["done"]
    assert rig.hca.link_state(0) == "disable"
    rig.delete(pod, 0)
    rig.assert_as_before()


def test_an_address_that_is_another_pods_by_now_is_not_put_back(rig: Rig) -> None:
    pod = rig.pod("lost")
    rig.add(pod, 0)
    (own,) = pod.addresses()
    run(f"ip -n {pod.name} addr del {own} dev net1")
    lease = LEASES / own.partition("/")[0]
    content = lease.read_bytes()
    put(lease, b"somebody-else\r\nnet1")
    plan = json_of("repair", status=1)
    assert plan["repairs"] == []
    assert {each["kind"] for each in plan["findings"]} == {"address", "route", "reservation"}
    assert pod.addresses() == []
    put(lease, content)
    assert any(each["kind"] == "address" for each in json_of("repair")["repairs"])
    assert pod.addresses() == [own]
    rig.delete(pod, 0)
    rig.assert_as_before()


def put(lease: Path, content: bytes) -> None:
    """In its place by a new file, as plugins do: the index of the leases looks at the folder's time."""
    new = lease.with_name(".new")
    new.write_bytes(content)
    os.replace(new, lease)


def test_repair_binds_a_vf_that_lost_its_driver(rig: Rig) -> None:
    assert rig.hca.unbind(4) == "OK"
    assert vf_states(rig)[4] == "unbound"
    run(f"echo nothing > {rig.hca.vf_path(4)}/driver_override")
    (finding,) = json_of("repair", status=1)["findings"]
    assert "driver_override says nothing" in finding["hint"]
    run(f"echo > {rig.hca.vf_path(4)}/driver_override")
    (repair,) = json_of("repair")["repairs"]
    assert (repair["kind"], repair["outcome"]) == ("bind", "done")
    assert wait(lambda: vf_states(rig)[4] == "free", 30)
    rig.assert_as_before()


def test_gc_and_repair_leave_an_add_on_its_way_alone(rig: Rig) -> None:
    pod = rig.pod("slow")
    process = rig.start("ADD", pod, 0, trace="move_netdev=stop")
    try:
        assert wait(lambda: vf_states(rig)[0] == "busy", 60)
        assert json_of("gc")["attachments"] == []
        plan = json_of("repair")
        assert (plan["repairs"], plan["findings"]) == ([], [])
        assert str(process.pid) in json_of("list")["pfs"][0]["vfs"][0]["note"]
    finally:
        process.send_signal(18)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert vf_states(rig)[0] == "in use"
    rig.delete(pod, 0)
    rig.assert_as_before()


def test_two_repairs_at_once_do_it_once(rig: Rig) -> None:
    pods = [rig.pod("d") for _ in range(3)]
    for vf, pod in enumerate(pods):
        rig.add(pod, vf)
        pod.delete()
    with running("repair") as one, running("repair") as other:
        for process in (one, other):
            out, err = process.communicate(timeout=180)
            assert process.returncode == 0, out + err
    assert set(vf_states(rig).values()) == {"free"}
    rig.assert_as_before()


def test_a_release_that_is_killed_is_finished_by_the_next(rig: Rig) -> None:
    pod = rig.pod("k")
    rig.add(pod, 0, guid=guid_of(7))
    pod.delete()
    assert cli("gc", env={TRACE: "bind=kill"}).status == -9
    assert vf_states(rig)[0] == "leftover"
    (released,) = json_of("gc")["attachments"]
    assert released["outcome"] == "released"
    rig.assert_as_before()
