"""ib_sriov_cni.delegation.ipam_plugin: IPAM plugins as scripts on a CNI_PATH (C10)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni.core.errors import AddressManagement
from ib_sriov_cni.delegation.execute import LIMIT
from ib_sriov_cni.delegation.ipam_plugin import (
    add_addresses,
    ask_addresses,
    check_addresses,
    collect_addresses,
    delete_addresses,
    find_plugin,
)
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.request import Request, parse_request

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]}


class Plugins:
    """A folder of scripts, and the log of who calls them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_file = folder / "log"
        self.log = Log(level="debug", path=str(self.log_file))
        self.log.debug("begin")  # from now on it has its file open

    def add(self, body: str, name: str = "my-ipam") -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def request(self, command: str = "ADD", conf: dict[str, Any] | None = None, **environ: str) -> Request:
        given = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/run/netns/x",
            "CNI_IFNAME": "net1",
            "CNI_PATH": f"/nowhere:{self.folder}",
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=p",
            "PATH": os.environ["PATH"],
            "HERE": str(self.folder),
            **environ,
        }
        document = {"cniVersion": "1.0.0", "name": "ib", "ipam": {"type": "my-ipam"}, **(conf or {})}
        return parse_request(given, json.dumps(document).encode(), known_args=frozenset())

    def refusal(self, body: str, *, seconds: float = 60.0) -> AddressManagement:
        self.add(body)
        with pytest.raises(AddressManagement) as caught:
            add_addresses(self.request(conf={"ipamTimeout": seconds}), "my-ipam", self.log)
        assert caught.value.code == 104
        return caught.value


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_c10_a_result(plugins: Plugins) -> None:
    plugins.add(f"cat >/dev/null; echo '{json.dumps(RESULT)}'")
    before = open_files()
    result = add_addresses(plugins.request(), "my-ipam", plugins.log)
    assert [(ip.address, ip.gateway) for ip in result.ips] == [("10.1.2.3/24", "10.1.2.1")]
    assert open_files() == before


@pytest.mark.parametrize(
    ("call", "command"),
    [
        (add_addresses, "ADD"),
        (delete_addresses, "DEL"),
        (check_addresses, "CHECK"),
        (collect_addresses, "GC"),
        (ask_addresses, "STATUS"),
    ],
)
def test_c10_environment_and_input_are_passed_on(plugins: Plugins, call: Any, command: str) -> None:
    plugins.add(f"env >$HERE/env; cat >$HERE/stdin; echo '{json.dumps(RESULT)}'")
    request = plugins.request("DEL", {"x": "ü"}, MORE="a=b")
    call(request, "my-ipam", plugins.log)
    environ = dict(line.partition("=")[::2] for line in (plugins.folder / "env").read_text().splitlines())
    assert {key: environ[key] for key in request.environ} == {**request.environ, "CNI_COMMAND": command}
    assert (plugins.folder / "stdin").read_bytes() == request.stdin


def test_an_error_document(plugins: Plugins) -> None:
    document = json.dumps({"cniVersion": "1.0.0", "code": 11, "msg": "no address left", "details": "ask again"})
    fault = plugins.refusal(f"cat >/dev/null; echo '{document}'; exit 1")
    assert fault.msg == "IPAM plugin my-ipam ADD: code 11: no address left"
    assert fault.details == "ask again"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 3", "ADD: exit status 3 (no output)"),
        ("echo junk; echo more >&2; exit 3", "exit status 3: junk"),
        ("echo sorry >&2; exit 3", "exit status 3: sorry"),
        ('echo \'{"no": "code"}\'; exit 1', 'exit status 1: {"no": "code"}'),
        ("echo '[]'; exit 1", "exit status 1: []"),
        ("kill -9 $$", "ADD: killed by signal 9 (no output)"),
        ("echo half; kill -15 $$", "killed by signal 15: half"),
        ('echo \'{"code": 7, "msg": "no"}\'', "ADD: code 7: no"),
        ("exit 0", "ADD: its answer is not JSON"),
        ("echo junk", "ADD: its answer is not JSON"),
        ("echo '{} {}'", "ADD: its answer is not JSON"),
        ("printf '\\377'", "ADD: its answer is not JSON"),
        ("echo '[]'", "ADD: its result is not valid"),
        ("echo '{}'", "ADD: its result has no address"),
        ("echo '{\"ips\": []}'", "ADD: its result has no address"),
        ('echo \'{"ips": [{"address": "10.0.0.256/24"}]}\'', "ADD: its result is not valid"),
    ],
)
def test_an_answer_that_is_none(plugins: Plugins, body: str, words: str) -> None:
    assert words in plugins.refusal(f"cat >/dev/null; {body}").msg


def test_its_standard_error_is_in_our_log(plugins: Plugins) -> None:
    plugins.add(f"echo 'what I did' >&2; echo '{json.dumps(RESULT)}'")
    add_addresses(plugins.request(), "my-ipam", plugins.log)
    text = plugins.log_file.read_text()
    assert "step=delegate plugin=my-ipam command=ADD status=0 " in text
    assert 'stderr="what I did"' in text


def test_a_plugin_that_does_not_read(plugins: Plugins) -> None:
    """Its closed input is no fault, however much was to be written."""
    plugins.add(f"exec <&-; echo '{json.dumps(RESULT)}'")
    request = plugins.request(conf={"x": "y" * 500_000})
    assert add_addresses(request, "my-ipam", plugins.log).ips


def test_a_large_input_and_a_large_output(plugins: Plugins) -> None:
    """Both pipes are served at once: neither side waits for the other."""
    plugins.add("cat | tee $HERE/stdin; yes 0123456789 | head -c 300000 >&2")
    request = plugins.request(conf={"x": "y" * 900_000, "ips": [{"address": "10.1.2.3/24"}]})
    assert len(add_addresses(request, "my-ipam", plugins.log).ips) == 1
    assert (plugins.folder / "stdin").read_bytes() == request.stdin


def test_an_endless_output_is_cut(plugins: Plugins) -> None:
    fault = plugins.refusal("exec yes 0123456789")
    assert "killed by signal 13" in fault.msg  # SIGPIPE, as a program expects it
    assert len(fault.msg) < 1000
    assert LIMIT < 1 << 24


@pytest.mark.parametrize(
    "body",
    [
        "exec sleep 1000",
        "exec <&- >&- 2>&-; exec sleep 1000",  # nothing left to hear from it
        "trap '' TERM; sleep 1000 & echo $! >>$HERE/pids; wait",  # and what it started ends with it
    ],
)
def test_a_plugin_that_never_answers(plugins: Plugins, body: str) -> None:
    before = open_files()
    fault = plugins.refusal(f"echo $$ >$HERE/pids; {body}", seconds=0.3)
    assert fault.msg == "IPAM plugin my-ipam ADD: no answer within 0.3 s (no output)"
    for pid in (plugins.folder / "pids").read_text().split():
        while runs(int(pid)):
            os.sched_yield()
    assert open_files() == before


def runs(pid: int) -> bool:
    """Whether the process is alive; one that waits to be reaped is not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_plugin_that_leaves_something_running_in_the_background(plugins: Plugins) -> None:
    """What has closed our pipes is not waited for, and lives."""
    plugins.add(f"sleep 1000 <&- >&- 2>&- & echo $! >$HERE/pid; echo '{json.dumps(RESULT)}'")
    assert add_addresses(plugins.request(), "my-ipam", plugins.log).ips
    os.kill(int((plugins.folder / "pid").read_text()), 9)


@pytest.mark.parametrize("content", ["", "#!/nowhere/interpreter\n", "\x7fELF junk"])
def test_a_program_that_cannot_be_executed(plugins: Plugins, content: str) -> None:
    path = plugins.folder / "my-ipam"
    path.write_text(content)
    path.chmod(0o755)
    before = open_files()
    with pytest.raises(AddressManagement, match="ADD: cannot be executed: "):
        add_addresses(plugins.request(), "my-ipam", plugins.log)
    assert open_files() == before


def test_the_bundled_one_is_not_executed(plugins: Plugins) -> None:
    plugins.add("touch $HERE/executed", name="host-local")
    ipam = {"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": str(plugins.folder / "data")}
    request = plugins.request(conf={"ipam": ipam})
    result = add_addresses(request, "host-local", plugins.log)
    assert [ip.address for ip in result.ips] == ["10.1.2.2/24"]
    check_addresses(request, "host-local", plugins.log)
    delete_addresses(request, "host-local", plugins.log)
    assert not (plugins.folder / "executed").exists()


# ---- looking it up


def test_the_first_executable_on_cni_path(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "my-ipam").mkdir()
    (folders[1] / "my-ipam").write_text("not executable")
    for folder in folders[2:]:
        (folder / "my-ipam").write_text("#!/bin/sh\n")
        (folder / "my-ipam").chmod(0o755)
    path = ("/nowhere", *[str(folder) for folder in folders])
    assert find_plugin("my-ipam", path) == str(folders[2] / "my-ipam")


def test_a_plugin_that_is_not_there() -> None:
    with pytest.raises(AddressManagement) as caught:
        find_plugin("my-ipam", ("/a", "/b"))
    assert "IPAM plugin my-ipam: no executable of that name in CNI_PATH (/a:/b)" in caught.value.msg
    with pytest.raises(AddressManagement, match=r"CNI_PATH \(empty\)"):
        find_plugin("my-ipam", ())


@pytest.mark.parametrize("kind", ["../evil", "/bin/sh", ".", "..", "a/b", "a\0b"])
def test_a_type_that_is_no_name(kind: str) -> None:
    with pytest.raises(AddressManagement, match="is not the name of a plugin"):
        find_plugin(kind, ("/bin",))


def test_a_plugin_without_check_has_nothing_to_say(tmp_path: Path) -> None:
    """Whereabouts answers every CHECK so; an attachment is not wrong for it."""
    plugins = Plugins(tmp_path)
    plugins.add("""echo '{"cniVersion":"1.0.0","code":100,"msg":"CNI CHECK method is not implemented"}'; exit 1""")
    check_addresses(plugins.request("CHECK"), "my-ipam", plugins.log)
    assert "has no CHECK" in plugins.log_file.read_text()
