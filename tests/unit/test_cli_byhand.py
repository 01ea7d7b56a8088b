"""add and del by hand: ADD's parser accepts the configuration made from options; what del may delete."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ib_sriov_cni import cli
from ib_sriov_cni.cli.byhand import MARK, advise_root, find_netns
from ib_sriov_cni.cli.output import EXIT_FAILED, EXIT_NOT_FOUND, Failure, Site
from ib_sriov_cni.core.configuration import parse_netconf
from ib_sriov_cni.core.errors import KernelRefused, TryAgainLater
from ipam.host_local.config import parse_settings
from ipam.protocol.request import parse_request
from tests.unit.node import VFS, Node

DEVICE = "0000:3b:00.2"
HERE = "/proc/self/ns/net"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def run(*words: str, node: Node | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.main, list(words), obj=node.site if node else None, prog_name="ib-sriov")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def conf_of(*words: str) -> Any:
    status, out, err = run("add", "--device", DEVICE, "--netns", HERE, "--dry-run", *words)
    assert status == 0, err
    return json.loads(out)


def test_the_least() -> None:
    assert conf_of() == {"cniVersion": "1.1.0", "type": "ib-sriov", "name": "by-hand", "deviceID": DEVICE}


def test_every_option_arrives_at_the_parser() -> None:
    words = "--guid 0211223344556677 --link-state enable --pkey 0x8001 --mtu 2000 --port-timeout 3 --isolate"
    words += " --ipam-subnet 10.5.0.0/24 --gateway 10.5.0.254 --address 10.5.0.7 --network mine --state-dir /x"
    conf = conf_of(*words.split(), "--route", "10.0.0.0/8", "--route", "10.9.0.0/16,10.5.0.9")
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": HERE,
        "CNI_IFNAME": "net1",
        "CNI_PATH": "/x",
    }
    request = parse_request(environ, json.dumps(conf).encode(), known_args=frozenset())
    parsed, settings = parse_netconf(request), parse_settings(request)
    assert str(parsed.guid) == "02:11:22:33:44:55:66:77"
    assert (parsed.link_state, parsed.pkey, parsed.mtu, parsed.port_timeout) == ("enable", 0x8001, 2000, 3.0)
    assert (parsed.rdma_isolation, parsed.name, parsed.state_dir) == (True, "mine", "/x")
    assert [(route.dst, route.gw) for route in settings.routes] == [("10.0.0.0/8", None), ("10.9.0.0/16", "10.5.0.9")]
    assert len(settings.requested) == 1
    assert str(settings.sets[0][0]) == "10.5.0.1-10.5.0.254"


def test_a_configuration_to_start_from(tmp_path: Path) -> None:
    path = tmp_path / "fabric.yaml"
    path.write_text(
        "kind: NetworkAttachmentDefinition\nmetadata: {name: fabric}\nspec:\n  config: |\n"
        '    {"cniVersion": "1.0.0", "type": "ib-sriov", "mtu": 4092, "ipam": {"type": "host-local", '
        '"ranges": [[{"subnet": "10.6.0.0/24"}]]}}\n'
    )
    conf = conf_of("--config", str(path), "--mtu", "2000", "--route", "10.0.0.0/8")
    assert (conf["name"], conf["mtu"], conf["deviceID"]) == ("fabric", 2000, DEVICE)
    assert conf["ipam"]["ranges"] == [[{"subnet": "10.6.0.0/24"}]]
    assert conf["ipam"]["routes"] == [{"dst": "10.0.0.0/8"}]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--device", DEVICE], 2, "set either --pid or --netns"),
        (["--device", DEVICE, "--pid", "1", "--netns", "x"], 2, "set --pid or --netns, not both"),
        ([], 2, "set --device, and either --pid or --netns"),
        (
            ["--netns", HERE],
            EXIT_FAILED,
            "what to do: pass --device with a VF's PCI address; `ib-sriov list --state free`",
        ),
        (["--device", "eth0", "--netns", HERE], EXIT_FAILED, "what to do: pass --device with a VF's PCI address"),
        (
            ["--device", DEVICE, "--netns", HERE, "--ipam-subnet", "10.0.0.0", "--dry-run"],
            EXIT_FAILED,
            "'10.0.0.0' has no prefix length",
        ),
        (
            ["--device", DEVICE, "--netns", "nobody-has-this"],
            EXIT_FAILED,
            "there is no network namespace nobody-has-this",
        ),
        (["--device", DEVICE, "--pid", "4194304"], EXIT_FAILED, "there is no process 4194304"),
        (["--netns", HERE], EXIT_FAILED, "deviceID must be the PCI address of a VF"),
        (["--device", "eth0", "--netns", HERE], EXIT_FAILED, "must be a PCI address like 0000:3b:00.2 (got 'eth0')"),
        (["--device", DEVICE, "--netns", HERE, "--guid", "0"], EXIT_FAILED, "must be a GUID"),
        (["--device", DEVICE, "--netns", HERE, "--address", "10.0.0.1"], 2, "need --ipam-subnet"),
        (["--device", DEVICE, "--netns", HERE, "--ifname", "a/b"], EXIT_FAILED, "contains '/'"),
        (["--device", DEVICE, "--netns", HERE, "--config", "/nowhere"], EXIT_FAILED, "No such file"),
        (
            ["--device", DEVICE, "--netns", HERE, "--config", "/dev/null"],
            EXIT_FAILED,
            "must contain one configuration of type ib-sriov (it contains 0)",
        ),
    ],
)
def test_what_add_refuses(words: list[str], status: int, said: str) -> None:
    found = run("add", *words)
    assert found[0] == status
    assert said in found[2]


def test_del_of_nothing() -> None:
    status, _, err = run("del")
    assert status == 2
    assert "name an ATTACHMENT, or set either --pid or --netns" in err


def test_what_the_kernel_refuses_others_than_root() -> None:
    refusal = KernelRefused("enter", "network namespace /x", errno.EPERM, details="see the log")
    with pytest.raises(Failure) as caught, advise_root(root=False):
        raise refusal
    assert (caught.value.message, caught.value.hint, caught.value.code) == (refusal.msg, "run as root", 102)
    with pytest.raises(KernelRefused), advise_root(root=True):
        raise refusal
    with pytest.raises(TryAgainLater), advise_root(root=False):
        raise TryAgainLater("busy")


def test_a_relative_path_of_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/run")
    assert find_netns(Site(), None, "./x") == ("/run/x", "netns-x")


def test_del_leaves_a_runtimes_attachment_alone(node: Node) -> None:
    record = node.record(VFS[0], boot_id="another")
    status, _, err = run("del", "w-0", node=node)
    assert status == EXIT_FAILED
    assert "attached by a runtime" in err
    assert node.host.records.read_keys() == [record.key]
    status, out, _ = run("del", "w-0", "--force", "-o", "json", node=node)
    assert status == 0
    assert json.loads(out)["outcome"] == "released"
    assert node.host.records.read_keys() == []


def test_del_what_was_added_by_hand(node: Node) -> None:
    from ib_sriov_cni.core.record import AttachmentKey
    from ipam.protocol.value import replace

    key = AttachmentKey(network="mine", container_id="netns-try", ifname="net1")
    record = node.record(VFS[0], boot_id="another", args=f"IgnoreUnknown=1;{MARK}=1", pod="")
    node.host.records.forget(record.key)
    node.host.records.write(replace(record, key=key, conf={"name": "mine"}))
    status, _, err = run("del", "--netns", "other", node=node)
    assert status == EXIT_NOT_FOUND
    assert "attached by hand: mine/netns-try:net1" in err
    # It is found though its namespace may be gone and its network is not the default: it is the only one of that name.
    assert run("del", "--netns", "try", node=node)[0] == 0
    assert node.host.records.read_keys() == []


def test_del_wants_one_name(node: Node) -> None:
    assert run("del", node=node)[0] == 2
    assert run("del", "x", "--netns", "y", node=node)[0] == 2
