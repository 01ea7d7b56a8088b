"""How many system calls one invocation makes, and what for: ADD, DEL and other commands under strace, in the lab.

    tests/bench/calls.py [--json FILE]      boots the lab's VM for it
    tests/bench/calls.py --inside [...]     what runs in the VM

It counts what the plugin does once the interpreter runs (a bare one, `-I -S`); imports have a column of their own.
The child that verifies the RDMA device is counted separately. Needs strace (Debian: strace).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.lab import emulated_hca  # noqa: E402  # found by the line above
from tests.lab.cni import DEFAULT_PATH  # noqa: E402  # likewise
from tests.lab.pod import Pod  # noqa: E402  # likewise
from tests.lab.rig import IPV4, guid_of  # noqa: E402  # likewise

MARK = "/here-begins-the-plugin"
PROGRAM = (
    "import sys; from posix import access; sys.path[:0] = {path!r}; access({mark!r}, 0); "
    "from ib_sriov_cni.__main__ import main; sys.exit(main())"
)
CALL = re.compile(r"^(\w+)\((.*)$")
QUOTED = re.compile(r'"([^"]*)"')
ON_FILE = re.compile(r"\d+<([^>]*)>")
WAITS = {"poll", "select", "clock_nanosleep", "wait4", "pselect6"}
TITLES = {
    "all": "in all",
    "import": "for imports",
    "memory": "memory",
    "netlink": "netlink messages",
    "dumps": "of them dumps",
    "sysfs": "on sysfs",
    "proc": "on /proc",
    "state": "on records, locks, leases",
    "fsync": "fsync",
    "fork": "fork",
    "exec": "exec",
    "wait": "waits",
    "other": "other",
}


def import_path() -> list[str]:
    """Return where the plugin and its libraries are."""
    return [str(ROOT), *[folder for folder in sys.path if folder.endswith("-packages")]]


KINDS = {
    **dict.fromkeys(("mmap", "munmap", "brk", "mprotect", "mremap", "madvise"), "memory"),
    **dict.fromkeys(("fsync", "fdatasync"), "fsync"),
    **dict.fromkeys(("clone", "clone3", "fork", "vfork"), "fork"),
    "execve": "exec",
}
PLACES = {
    "sysfs": ("/sys/",),
    "proc": ("/proc/", "net:["),
    "state": ("/var/lib/cni", "/run/ib-sriov"),
    "import": (*import_path(), "/usr/lib", "/usr/local/lib", "/lib", "/etc/ld.so"),
}


def kind_of(name: str, rest: str) -> str:
    """Return what a system call is for, one of TITLES: by its name, else by the file that it names or has open."""
    if name in KINDS:
        return KINDS[name]
    if "NETLINK:" in rest or "AF_NETLINK" in rest:
        return "netlink"
    if name in WAITS:
        return "wait"
    paths = [*QUOTED.findall(rest)[:1], *ON_FILE.findall(rest)[:1]]
    return next((kind for path in paths for kind, places in PLACES.items() if path.startswith(places)), "other")


def count(text: str) -> Counter[str]:
    """Count the calls of one process by what they are for."""
    found: Counter[str] = Counter()
    reads: Counter[str] = Counter()
    for line in text.splitlines():
        match = CALL.match(line)
        if match is None:
            continue
        name, rest = match.groups()
        kind = kind_of(name, rest)
        found["all"] += 1
        if kind == "netlink":
            found["netlink calls"] += 1
            if name in {"sendto", "sendmsg"}:
                found["netlink"] += 1
                found["dumps"] += "NLM_F_DUMP" in rest or "NLM_F_ROOT" in rest or "|0x300" in rest
        else:
            found[kind] += 1
        if name == "openat" and kind in {"sysfs", "proc", "state"} and "O_RDONLY" in rest and "= -1" not in rest:
            reads[QUOTED.findall(rest)[0]] += 1
    found["other"] += found["netlink calls"] - found["netlink"]
    for path, times in reads.items():
        if times > 1:
            found[f"twice {path}"] = times
    return found


def trace(command: list[str], environ: dict[str, str], conf: dict[str, Any]) -> list[Counter[str]]:
    """Run a command under strace; return the counts of the plugin's own process, then those of its children."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "trace")
        strace = ["strace", "-ff", "-yy", "-s", "200", "-o", prefix, *command]
        done = subprocess.run(strace, env=environ, input=json.dumps(conf).encode(), capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.returncode} {done.stdout.decode()} {done.stderr.decode()}")
        texts = [Path(folder, name).read_text(errors="replace") for name in sorted(os.listdir(folder), key=pid_of)]
    keep = os.environ.get("KEEP")
    if keep:
        Path(keep, f"{environ['CNI_COMMAND']}-{len(os.listdir(keep))}.txt").write_text("\n=== child\n".join(texts))
    texts[0] = texts[0].partition(MARK)[2]
    return [count(text) for text in texts]


def pid_of(name: str) -> int:
    return int(name.rpartition(".")[2])


def inside() -> list[dict[str, Any]]:
    """Trace the cases in the VM; return a row for each process."""
    rows: list[dict[str, Any]] = []
    program = PROGRAM.format(path=import_path(), mark=MARK)
    command = [sys.executable, "-I", "-S", "-c", program]
    environ = {"CNI_PATH": DEFAULT_PATH, "CNI_IFNAME": "net1", "PATH": os.environ["PATH"]}
    rows.append(row("VERSION", trace(command, {**environ, "CNI_COMMAND": "VERSION"}, {})[0]))
    cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("shared", "GUID kept", {}),
        ("exclusive", "GUID kept, isolated", {"rdmaIsolation": True}),
        ("exclusive", "new GUID, isolated", {"rdmaIsolation": True, "guid": guid_of(1)}),
    )
    for mode, what, more in cases:
        hca = emulated_hca.load(vfs=8, preset=True, mode=mode)
        # Another pod, as on a node in use: folders and first leases already exist.
        pods = [Pod("neighbour", serial=1), Pod("p", serial=2)]
        for vf, pod in enumerate(pods):
            base = {"cniVersion": "1.1.0", "name": "ibnet", "type": "ib-sriov", "deviceID": hca.pci(vf), "ipam": IPV4}
            conf = {**base, **more} if vf else {**base, "rdmaIsolation": mode == "exclusive"}
            where = {**environ, "CNI_CONTAINERID": pod.container_id, "CNI_NETNS": pod.netns}
            if not vf:
                adding, text = {**where, "CNI_COMMAND": "ADD"}, json.dumps(conf).encode()
                done = subprocess.run(command, env=adding, input=text, capture_output=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"ADD: {done.stdout.decode()} {done.stderr.decode()}")
                continue
            for verb in ("ADD", "DEL"):
                found = trace(command, {**where, "CNI_COMMAND": verb}, {**conf, "logFile": "/dev/null"})
                rows.append(row(f"{verb}, {what}", found[0]))
                rows += [row("its child", child) for child in found[1:]]
        for pod in pods:
            pod.delete()
        emulated_hca.unload()
    return rows


def general(path: str) -> str:
    """Return a path without the parts specific to one VF or attachment."""
    path = re.sub(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", "VF", path)
    return re.sub(r"(mlx5_|uverbs)\d+", r"\1N", re.sub(r"[^/]*:\w+\.json", "ATTACHMENT.json", path))


def row(title: str, counts: Counter[str]) -> dict[str, Any]:
    return {"title": title, **counts}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [f"| system calls | {' | '.join(TITLES.values())} |", "|---" * (len(TITLES) + 1) + "|"]
    lines += [f"| {each['title']} | {' | '.join(str(each.get(kind, 0)) for kind in TITLES)} |" for each in rows]
    twice: dict[str, set[str]] = {}
    for each in rows:
        for key in each:
            if key.startswith("twice "):
                twice.setdefault(general(key[6:]), set()).add(each["title"].partition(",")[0])
    if twice:
        told = [f"{path} ({', '.join(sorted(verbs))})" for path, verbs in sorted(twice.items())]
        lines += ["", f"Opened more than once in one call: {'; '.join(told)}."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the rows there too")
    parser.add_argument("--inside", action="store_true")
    options = parser.parse_args()
    if options.inside:
        rows = inside()
        Path("/run/out/calls.json").write_text(json.dumps(rows))
        return 0
    with tempfile.TemporaryDirectory() as out:
        environ = {**os.environ, "OUT": out, "KEEP": "/run/out", "PASS": "KEEP"}
        python = os.environ.get("LAB_PYTHON", ".venv/bin/python")
        lab = [str(ROOT / "tests/lab/run"), python, "tests/bench/calls.py", "--inside"]
        status = subprocess.run(lab, env=environ, cwd=ROOT, check=False).returncode
        if status:
            return status
        rows = json.loads(Path(out, "calls.json").read_text())
        if os.environ.get("KEEP"):
            for name in os.listdir(out):
                if name.endswith(".txt"):
                    Path(os.environ["KEEP"], name).write_text(Path(out, name).read_text())
    if options.json:
        Path(options.json).write_text(json.dumps(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
