"""ib_sriov_cni.delegation.ipam_plugin: IPAM plugins as scripts on a CNI_PATH (C10)."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ib_sriov_cni import __main__
from ib_sriov_cni.core.errors import AddressManagement
from ib_sriov_cni.delegation import NOT_AN_IPAM_PLUGIN
from ib_sriov_cni.delegation.ipam_plugin import (
    IPAM_NAMES,
    add_addresses,
    ask_addresses,
    check_addresses,
    collect_addresses,
    delete_addresses,
    find_plugin,
)
from ib_sriov_cni.kernel.syscalls import PR_SET_CHILD_SUBREAPER, _call
from ib_sriov_cni.telemetry.log import Log
from ipam.protocol.bounds import DELEGATE_BYTES
from ipam.protocol.request import Request, parse_request
from ipam.protocol.value import replace

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}]}


class Plugins:
    """A folder of plugin scripts, and the log of the code that calls them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_file = folder / "log"
        self.log = Log(level="debug", path=str(self.log_file))
        self.log.debug("begin")  # opens the log file

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
def plugins(tmp_path: Path) -> Iterator[Plugins]:
    yield Plugins(tmp_path)
    _call("prctl", PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process that no plugin started."""
    child = subprocess.Popen(["sleep", "1000"])
    yield child
    child.kill()
    child.wait()


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
        ("printf '\\033[31mred\\nno \\001\\377'; exit 3", "exit status 3: \\u001b[31mred no \\u0001\ufffd"),
        ("printf '\\033[31mred'", "is not JSON (no JSON value at character 0): '\\u001b[31mred'"),
        ("""printf '{"code": 7, "msg": "a\\\\nb\\\\u202e"}'""", "ADD: code 7: a b\\u202e"),
        ("""printf '{"code": [7], "msg": {"a": 1}}'""", "ADD: code : "),
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
    """That it closes its input is not an error, however much there was to write."""
    plugins.add(f"exec <&-; echo '{json.dumps(RESULT)}'")
    request = plugins.request(conf={"x": "y" * 500_000})
    assert add_addresses(request, "my-ipam", plugins.log).ips


def test_a_large_input_and_a_large_output(plugins: Plugins) -> None:
    """Both pipes are served at the same time, so neither side blocks the other."""
    plugins.add("cat | tee $HERE/stdin; yes 0123456789 | head -c 300000 >&2")
    request = plugins.request(conf={"x": "y" * 900_000, "ips": [{"address": "10.1.2.3/24"}]})
    assert len(add_addresses(request, "my-ipam", plugins.log).ips) == 1
    assert (plugins.folder / "stdin").read_bytes() == request.stdin


def test_an_endless_output_is_one_fault(plugins: Plugins) -> None:
    fault = plugins.refusal("exec yes 0123456789", seconds=60)
    assert f"ADD: its output is larger than {DELEGATE_BYTES} bytes: 0123456789 " in fault.msg
    assert len(fault.msg) < 1000


def test_an_endless_standard_error_ends_with_the_time_limit(plugins: Plugins) -> None:
    fault = plugins.refusal("exec yes 0123456789 >&2", seconds=0.5)
    assert "ADD: no answer within 0.5 s: 0123456789 " in fault.msg
    assert len(fault.msg) < 1000
    assert plugins.log_file.stat().st_size < 10_000


def test_a_large_standard_error_does_not_cost_the_result(plugins: Plugins) -> None:
    plugins.add(f"head -c {3 * DELEGATE_BYTES} /dev/zero >&2; echo '{json.dumps(RESULT)}'")
    assert add_addresses(plugins.request(), "my-ipam", plugins.log).ips


def test_an_error_of_any_size_is_a_short_message(plugins: Plugins) -> None:
    document = json.dumps({"code": 7, "msg": "m" * 300_000, "details": "d" * 300_000})
    (plugins.folder / "answer").write_text(document)
    fault = plugins.refusal("cat >/dev/null; cat $HERE/answer; exit 1")
    assert len(fault.msg) < 2_100
    assert len(fault.details) < 2_100
    assert "(300000 characters)" in fault.msg


def test_a_duplicate_key_of_any_size_is_a_short_message(plugins: Plugins) -> None:
    key = "k" * 300_000
    (plugins.folder / "answer").write_text(f'{{"{key}": 1, "{key}": 2}}')
    assert len(plugins.refusal("cat >/dev/null; cat $HERE/answer").msg) < 1_000


def test_a_plugin_inherits_no_signal_settings_of_ours(plugins: Plugins) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, an ADD being undone ignores SIGTERM, and SIGTERM is blocked at the start."""
    was = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        # A shell blocks signals now and then, so grep replaces it (exec) in the process that was started.
        plugins.refusal("exec >$HERE/signals; exec grep ^Sig /proc/self/status")
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask | {signal.SIGUSR1}
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, was)
    lines = [line.split() for line in (plugins.folder / "signals").read_text().splitlines()]
    settings = {name: int(number, 16) for name, number in lines if not name.startswith("SigQ")}
    assert settings["SigBlk:"] == 0
    reset = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGCHLD)
    assert [number.name for number in reset if settings["SigIgn:"] & 1 << number - 1] == []


def test_an_ignored_sigchld_does_not_cost_the_status(plugins: Plugins) -> None:
    """Our parent may have set it to be ignored: then the kernel reaps our children itself (waitpid(2))."""
    was = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert "exit status 3" in plugins.refusal("exit 3").msg
    finally:
        signal.signal(signal.SIGCHLD, was)


# What a plugin may leave running; the process IDs are written to $HERE/pids.
LEFT = {
    "itself": "echo $$ >>$HERE/pids; exec sleep 1000",
    "itself, with nothing left to hear from it": "echo $$ >>$HERE/pids; exec <&- >&- 2>&-; exec sleep 1000",
    "a child, both deaf to SIGTERM": "trap '' TERM; echo $$ >>$HERE/pids; sleep 1000 & echo $! >>$HERE/pids; wait",
    "a session of its own": "setsid sh -c 'echo $$ >>$HERE/pids; exec sleep 1000' & wait",
    "a process group of its own": "exec bash -c 'set -m; sleep 1000 & echo $! >>$HERE/pids; wait'",
    "a daemon": "(setsid sh -c 'echo $$ >>$HERE/pids; exec sleep 1000' &); sleep 1000",
    "a daemon that has closed our pipes": """
        (setsid sh -c 'echo $$ >>$HERE/pids; exec sleep 1000' <&- >&- 2>&- &); sleep 1000""",
    "a daemon of a plugin that has ended": "(setsid sh -c 'echo $$ >>$HERE/pids; exec sleep 1000' &); exit 0",
    "daemons of daemons": """
        (setsid sh -c 'echo $$ >>$HERE/pids; (setsid sh -c "echo \\$\\$ >>$HERE/pids; exec sleep 1000" &)
        exec sleep 1000' &); sleep 1000""",
}


@pytest.mark.parametrize("left", LEFT)
def test_nothing_is_left_of_a_plugin_that_never_answers(
    plugins: Plugins, other: subprocess.Popen[bytes], left: str
) -> None:
    """Nothing else is touched: a process that we started for another purpose (such as the verifying child) survives."""
    before = open_files()
    fault = plugins.refusal(LEFT[left], seconds=1.5)
    assert fault.msg == "IPAM plugin my-ipam ADD: no answer within 1.5 s (no output)"
    pids = [int(pid) for pid in (plugins.folder / "pids").read_text().split()]
    assert pids
    assert [pid for pid in pids if exists(pid)] == []
    assert other.poll() is None
    assert open_files() == before


def test_nothing_is_left_of_a_plugin_that_prints_for_ever(plugins: Plugins) -> None:
    plugins.refusal("echo $$ >>$HERE/pids; setsid sh -c 'echo $$ >>$HERE/pids; exec yes'")
    assert [pid for pid in (plugins.folder / "pids").read_text().split() if exists(int(pid))] == []


def exists(pid: int) -> bool:
    """Whether there is such a process, even a zombie."""
    return os.path.exists(f"/proc/{pid}")


def runs(pid: int) -> bool:
    """Whether the process is alive; a zombie is not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_plugin_that_leaves_something_running_in_the_background(plugins: Plugins) -> None:
    """A process that has closed our pipes is neither waited for nor killed."""
    plugins.add(f"sleep 1000 <&- >&- 2>&- & echo $! >$HERE/pid; echo '{json.dumps(RESULT)}'")
    assert add_addresses(plugins.request(), "my-ipam", plugins.log).ips
    pid = int((plugins.folder / "pid").read_text())
    plugins.refusal("sleep 1000", seconds=0.3)
    assert runs(pid), "it was left alone by another plugin's end too"
    os.kill(pid, 9)
    while runs(pid):
        os.sched_yield()
    plugins.refusal("exit 3")
    assert not exists(pid), "it was our child, which nobody else reaps"


def test_a_text_that_no_program_can_be_given(plugins: Plugins) -> None:
    """A record's environment may contain anything, but a NUL would end a variable (execve(2))."""
    plugins.add("exit 0")
    request = plugins.request()
    with pytest.raises(AddressManagement, match="cannot be executed: embedded null byte"):
        add_addresses(replace(request, environ={**request.environ, "X": "a\0b"}), "my-ipam", plugins.log)


@pytest.mark.parametrize("pipes", range(3))
def test_too_few_descriptors(plugins: Plugins, pipes: int) -> None:
    """Whatever is open by then is closed again."""
    plugins.refusal("exit 1")  # now everything is imported
    before = open_files()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2 * pipes, limits[1]))
    try:
        with pytest.raises(AddressManagement, match="cannot be executed: Too many open files"):
            add_addresses(plugins.request(), "my-ipam", plugins.log)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_files() == before


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


# ---- finding the plugin


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


# ---- our own executable as ipam.type


@pytest.mark.parametrize("kind", ["ib-sriov", "ib-sriov-cni", "any-name"])
def test_our_own_executable_is_not_an_ipam_plugin(tmp_path: Path, kind: str) -> None:
    (tmp_path / kind).symlink_to(os.path.realpath(sys.executable))
    with pytest.raises(AddressManagement, match=f"ipam.type {kind}: {NOT_AN_IPAM_PLUGIN}") as caught:
        find_plugin(kind, (str(tmp_path),))
    assert caught.value.code == 104


def test_by_its_own_name_it_is_one(tmp_path: Path) -> None:
    for kind in IPAM_NAMES:
        (tmp_path / kind).symlink_to(sys.executable)
        assert find_plugin(kind, (str(tmp_path),)) == str(tmp_path / kind)


def test_the_names_of_the_entry_point() -> None:
    assert set(IPAM_NAMES) == set(__main__.IPAM_NAMES)


def test_there_is_nothing_to_release_by_ourselves(plugins: Plugins) -> None:
    """DEL and GC must not fail for ever: no address can have been reserved."""
    (plugins.folder / "ib-sriov").symlink_to(sys.executable)
    delete_addresses(plugins.request("DEL"), "ib-sriov", plugins.log)
    collect_addresses(plugins.request("DEL"), "ib-sriov", plugins.log)
    assert plugins.log_file.read_text().count("no addresses to release") == 2
    for call in (add_addresses, check_addresses, ask_addresses):
        with pytest.raises(AddressManagement, match=NOT_AN_IPAM_PLUGIN):
            call(plugins.request(), "ib-sriov", plugins.log)


def test_a_plugin_without_check_has_nothing_to_say(tmp_path: Path) -> None:
    """Whereabouts answers every CHECK like this; that is not a fault of the attachment."""
    plugins = Plugins(tmp_path)
    plugins.add("""echo '{"cniVersion":"1.0.0","code":100,"msg":"CNI CHECK method is not implemented"}'; exit 1""")
    check_addresses(plugins.request("CHECK"), "my-ipam", plugins.log)
    assert "has no CHECK" in plugins.log_file.read_text()
