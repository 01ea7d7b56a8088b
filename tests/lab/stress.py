#!/usr/bin/python3
"""stress.py [SECONDS]: rebinds, moves between namespaces, traffic and SR-IOV off and on, all at once (in the VM).

tests/lab/run tests/lab/stress.py 30

Four pods live and die on VFs 0 to 3, VF 5 is disabled and enabled, VFs 6 and 7 talk by verbs. Afterwards all VFs must
be back, and the kernel's log clean (the host looks at that as well).
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.lab import commands
from tests.lab.commands import CommandFailed, run, wait
from tests.lab.emulated_hca import Hca, load, unload
from tests.lab.vm import kernel_faults

PODS = 4
PINGPONG_PORT = 18515


def live(hca: Hca, vf: int, end: float, counts: Counter[str]) -> None:
    """The lives of the pods on one VF: GUIDs, rebind, namespace, traffic, the end in one of several ways."""
    netns, turn = f"s{vf}", 0
    while time.monotonic() < end:
        turn += 1
        try:
            hca.sets_guid(vf, f"00:11:22:33:{turn % 256:02x}:00:00:{vf + 1:02x}")
            hca.rebind(vf)
            run(["ip", "netns", "add", netns])
            name = hca.rdma(vf)
            hca.to_pod(vf, netns)
            run(f"ip link set net1 up; ip addr add 10.2.0.{vf + 1}/24 dev net1", netns=netns)
            answers = commands.received(run("ping -c 3 -i 0.2 -W 2 10.2.0.100", netns=netns, check=False).stdout)
            counts["pods whose ping was answered" if answers else "pods whose ping was lost"] += 1
            way = random.choice(("namespace ended", "rebound", "moved back"))
            if way == "rebound":
                hca.rebind(vf)
            elif way == "moved back":
                run(["rdma", "dev", "set", str(name), "netns", "host"], netns=netns)
            counts[way] += 1
        except (AssertionError, StopIteration, OSError) as error:
            counts[f"fault: {str(error)[:100]}"] += 1
        run(["ip", "netns", "del", netns], check=False)
        wait(lambda: hca.netdevs(vf) and hca.rdma(vf))


def talk(hca: Hca, end: float, counts: Counter[str]) -> None:
    """Meanwhile, in init: verbs traffic, and a VF that is disabled and enabled."""
    while time.monotonic() < end:
        serve = f"timeout 60 ibv_rc_pingpong -n 100 -d {hca.rdma(6)}"
        server = threading.Thread(target=run, args=(serve,), kwargs={"check": False, "timeout": 90})
        server.start()
        wait(lambda: commands.listens(PINGPONG_PORT))
        done = run(f"timeout 60 ibv_rc_pingpong -n 100 -d {hca.rdma(7)} 127.0.0.1", check=False, timeout=90)
        server.join()
        counts["verbs exchanges" if "100 iters" in done.stdout else "verbs exchanges failed"] += 1
        for state in ("disable", "enable") * 3:
            run(["ip", "link", "set", "dev", hca.pf_netdev, "vf", "5", "state", state])


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    hca = load(vfs=8, mode="exclusive", preset=True)
    run("touch /run/netns/host; mount --bind /proc/1/ns/net /run/netns/host")
    run(["ip", "addr", "add", "10.2.0.100/24", "dev", hca.pf_netdev])
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=live, args=(hca, vf, end, counts)) for vf in range(PODS)]
    for thread in threads:
        thread.start()
    talk(hca, end, counts)
    for thread in threads:
        thread.join()
    faults = []
    if not hca.settled():
        faults.append("not all VFs are back")
    for _ in range(3):
        hca.set_numvfs(0)
        hca.set_numvfs(8)
    try:
        unload()
    except CommandFailed as error:
        faults.append(str(error))
    faults += kernel_faults(commands.kernel_log())
    faults += [f"{count} x {what}" for what, count in counts.items() if what.startswith(("fault", "verbs exchanges f"))]
    for what, count in sorted(counts.items()):
        print(f"{count:5} {what}")
    for fault in faults:
        print(f"FAULT {fault}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
