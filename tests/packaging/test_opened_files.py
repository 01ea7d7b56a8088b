"""What the program opens of this host, which has Python, libraries and locales: none of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.packaging.conftest import Done, apart
from tests.packaging.places import ADD, CONF, RDMA, program
from tests.unit.trees import PF, Tree

# What a program that is not whole would open.
FOREIGN = re.compile(
    r"\.so(\.[0-9.]+)?$|/nsswitch\.conf$|/ld\.so\.|^/usr/lib/locale/|/locale-archive$|/gconv|"
    r"^/usr/(local/)?lib/python|^/etc/libibverbs\.d|\.py[cd]?$"
)
CALLS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "VERSION": ((), {"CNI_COMMAND": "VERSION"}),
    "a refused ADD": ((), ADD),
    "version": (("version",), {}),
    "doctor": (("doctor",), {}),
    "config validate": (("config", "validate", "-"), {}),
}


def trace(folder: Path, arguments: Sequence[str], environ: Mapping[str, str], mounts: str) -> tuple[Done, list[str]]:
    """Run the program in a mount namespace of its own; what it opened."""
    log = folder / "trace"
    given = " ".join(f"{key}={shlex.quote(value)}" for key, value in {"LANG": "C.UTF-8", **environ}.items())
    strace = shlex.join(["strace", "-f", "-e", "trace=open,openat,openat2,execve", "-o", str(log)])
    command = shlex.join([str(program("x86_64")), *arguments])
    done = apart(f"{mounts}\nexec {strace} env -i {given} {command}", stdin=json.dumps(CONF).encode())
    calls = log.read_text()
    # env(1) is of the host: what counts comes after the program has been started.
    calls = calls[calls.index(f'execve("{program("x86_64")}"') :]
    return done, re.findall(r'open(?:at2?)?\((?:\w+, )?"([^"]+)"', calls)


@pytest.mark.parametrize("name", CALLS)
def test_it_opens_nothing_of_the_host(name: str, tmp_path: Path) -> None:
    """With a made sysfs, whose device doctor looks for by libibverbs."""
    tree = Tree(tmp_path / "sys")
    tree.add_pf()
    tree.add_rdma(PF, RDMA)
    done, opened = trace(tmp_path, *CALLS[name], f"mount --bind {shlex.quote(str(tree.root))} /sys")
    assert done.returncode in (0, 1), done.stderr
    assert {path for path in opened if FOREIGN.search(path)} == set()
    assert opened or name == "VERSION"
    if name == "doctor":
        assert RDMA in done.stdout.decode()


def test_a_name_is_looked_up_without_the_hosts_modules(tmp_path: Path) -> None:
    """The C library would load those that nsswitch.conf names, of the host's C library."""
    for name, text in {
        "resolv.conf": "",
        "nsswitch.conf": "hosts: sss files myhostname\npasswd: sss systemd\n",
    }.items():
        (tmp_path / name).write_text(text)
    mounts = "\n".join(
        f"mount --bind {shlex.quote(str(tmp_path / name))} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf")
    )
    mounts += "\nmount -t tmpfs tmpfs /run"  # an agent of this machine has its lock there
    arguments = ("agent", "--listen", "no-such-name.invalid:9743", "--state-dir", str(tmp_path / "state"))
    done, opened = trace(tmp_path, arguments, {}, mounts)
    assert b"listen on no-such-name.invalid:9743" in done.stderr
    assert "/etc/hosts" in opened
    assert {path for path in opened if FOREIGN.search(path)} == set()
