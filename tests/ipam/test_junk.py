"""Whatever is in place of a file, it neither blocks nor redirects a call, and no release fails because of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ipam.calls import ask, leases

VALID = "cni.dev/valid-attachments"


@pytest.fixture(autouse=True)
def _no_call_blocks() -> Iterator[None]:
    def expire(_signal: int, _frame: object) -> None:
        raise AssertionError("the call blocks")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_link_to_fifo(path: Path) -> None:
    target = path.parent / "fifo-elsewhere"
    if not target.exists():
        os.mkfifo(target)
    path.symlink_to(target)


def make_link_to_file(path: Path) -> None:
    target = path.parent / "file-elsewhere"
    target.write_bytes(b"c\r\neth0")
    path.symlink_to(target)


JUNK: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "link to a FIFO": make_link_to_fifo,
    "link to a file": make_link_to_file,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "socket": make_socket,
    "folder": lambda path: path.mkdir(),
}
EACH_KIND = pytest.mark.parametrize("make", JUNK.values(), ids=JUNK.keys())


def network(folder: Path, **ipam: Any) -> dict[str, Any]:
    (folder / "net").mkdir(parents=True, exist_ok=True)
    section = {"type": "host-local", "dataDir": str(folder), "subnet": "10.0.0.0/29", **ipam}
    return {"cniVersion": "1.1.0", "name": "net", "lockTimeout": 1, "ipam": section}


@EACH_KIND
def test_a_lease(make: Callable[[Path], None], tmp_path: Path) -> None:
    conf = network(tmp_path)
    make(tmp_path / "net" / "10.0.0.2")
    assert ask("STATUS", conf).status == 0
    assert ask("ADD", conf).ips == ["10.0.0.3/29"]
    assert ask("CHECK", conf).status == 0
    assert ask("DEL", conf).status == 0
    assert ask("GC", {**conf, VALID: []}).status == 0
    assert ask("ADD", conf, args="IP=10.0.0.2").code == 104
    assert os.path.lexists(tmp_path / "net" / "10.0.0.2"), "what is not ours stays"


@EACH_KIND
def test_the_cursor(make: Callable[[Path], None], tmp_path: Path) -> None:
    conf = network(tmp_path)
    make(tmp_path / "net" / "last_reserved_ip.0")
    assert ask("STATUS", conf).status == 0
    assert ask("DEL", conf).status == 0
    answer = ask("ADD", conf)
    if make is JUNK["folder"]:  # a rename cannot replace it
        assert (answer.code, "Is a directory" in answer.msg) == (106, True)
    else:
        assert answer.ips == ["10.0.0.2/29"]
        assert (tmp_path / "net" / "last_reserved_ip.0").read_bytes() == b"10.0.0.2"
    assert ask("DEL", conf).status == 0


@EACH_KIND
def test_the_lock(make: Callable[[Path], None], tmp_path: Path) -> None:
    conf = network(tmp_path)
    assert ask("ADD", conf, "c1").ips == ["10.0.0.2/29"]
    assert ask("ADD", conf, "c2").ips == ["10.0.0.3/29"]
    lock = tmp_path / "net" / "lock"
    lock.unlink()
    make(lock)
    answer = ask("ADD", conf, "c3")
    assert (answer.code, answer.msg.startswith(f"cannot open the lock {lock}: ")) == (106, True)
    assert ask("CHECK", conf, "c1").status == 0
    assert ask("DEL", conf, "c1").status == 0
    assert ask("DEL", conf, "c1").status == 0
    assert ask("GC", {**conf, VALID: []}).status == 0
    assert [name for name in os.listdir(tmp_path / "net") if name.startswith("10.")] == []
    assert not os.path.lexists(tmp_path / "net" / "nowhere")


def test_releases_without_a_lock_file_exclude_one_another(tmp_path: Path) -> None:
    import fcntl

    conf = {**network(tmp_path), "lockTimeout": 0.1}
    ask("ADD", conf)
    (tmp_path / "net" / "lock").unlink()
    os.mkfifo(tmp_path / "net" / "lock")
    folder = os.open(tmp_path / "net", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert ask("DEL", conf).code == 11
    os.close(folder)
    assert ask("DEL", conf).status == 0
    (tmp_path / "net" / "lock").unlink()
    assert leases(str(tmp_path / "net")) == {}


def test_a_release_without_a_lock_file_does_not_seal_the_index(tmp_path: Path) -> None:
    conf = network(tmp_path)
    ask("ADD", conf, "c1")
    ask("ADD", conf, "c2")
    (tmp_path / "net" / "lock").unlink()
    (tmp_path / "net" / "lock").symlink_to("nowhere")
    seal = os.readlink(tmp_path / ".ib-index" / "net" / "seal")
    ask("DEL", conf, "c1")
    (tmp_path / "net" / "10.0.0.5").write_bytes(b"go\r\neth0")  # like the Go plugin, which does not see the lock
    assert os.readlink(tmp_path / ".ib-index" / "net" / "seal") == seal
    (tmp_path / "net" / "lock").unlink()
    ask("DEL", conf, "go")
    assert sorted(leases(str(tmp_path / "net"))) == ["10.0.0.3"]


@EACH_KIND
@pytest.mark.parametrize("name", [".ib-index", ".ib-index/net", ".ib-index/net/seal", ".ib-index/net/c:eth0"])
def test_the_index(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    conf = network(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    make(tmp_path / name)
    assert ask("ADD", conf).ips == ["10.0.0.2/29"]
    assert ask("CHECK", conf).status == 0
    assert ask("DEL", conf).status == 0
    assert leases(str(tmp_path / "net")) == {}


FILES: dict[str, Callable[[str], dict[str, Any]]] = {
    "resolvConf": lambda path: {"resolvConf": path},
    "flannel": lambda path: {"slices": {"flannel": path, "count": 2}},
    "indexFile": lambda path: {"slices": {"indexFile": path, "count": 2}},
}
EACH_FILE = pytest.mark.parametrize("key", FILES)


@EACH_FILE
@pytest.mark.parametrize("kind", [kind for kind in JUNK if kind != "link to a file"])
def test_a_file_that_the_configuration_names(key: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    conf = network(tmp_path / "data", **FILES[key](str(path)))
    JUNK[kind](path)
    answer = ask("ADD", conf)
    assert (answer.code, str(path) in answer.msg) == (106 if key == "resolvConf" else 11, True)
    if "FIFO" in kind:
        assert "it is not a regular file" in answer.msg
    assert ask("STATUS", conf).code == 50
    assert ask("DEL", conf).status == 0


@EACH_FILE
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/tty"])
def test_a_device_that_the_configuration_names(key: str, path: str, tmp_path: Path) -> None:
    conf = network(tmp_path, **FILES[key](path))
    assert ask("ADD", conf).code == (106 if key == "resolvConf" else 11)
    assert ask("DEL", conf).status == 0


@EACH_FILE
def test_a_link_that_the_configuration_names_is_followed(key: str, tmp_path: Path) -> None:
    """/etc/resolv.conf is often a link, and the files of a ConfigMap always are."""
    texts = {
        "resolvConf": "nameserver 10.0.0.53\n",
        "flannel": "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n",
        "indexFile": "1\n",
    }
    (tmp_path / "real").write_text(texts[key])
    (tmp_path / "link").symlink_to("real")
    conf = network(tmp_path / "data", **FILES[key](str(tmp_path / "link")))
    assert ask("ADD", conf).ips == ["10.0.0.2/29" if key == "resolvConf" else "10.0.0.4/29"]
