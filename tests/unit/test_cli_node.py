"""list, show, check, gc, repair, watch and completion on a simulated node: output and exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ib_sriov_cni import cli
from ib_sriov_cni.cli.find import find_attachment
from ib_sriov_cni.cli.listing import filter_inventory
from ib_sriov_cni.cli.output import EXIT_FAILED, EXIT_INCOMPLETE, EXIT_NOT_FOUND, EXIT_OK, EXIT_PROBLEM, Failure
from ib_sriov_cni.core.values import Guid
from ib_sriov_cni.node.read_inventory import read_inventory
from tests.unit.node import VFS, Node
from tests.unit.trees import PF, tree

ROOT = Path(__file__).resolve().parents[2]


class Called:
    """The exit status and output of a call."""

    def __init__(self, result: Result) -> None:
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        self.status = result.exit_code
        self.out = result.stdout
        self.err = result.stderr

    @property
    def doc(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()[1:]]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    with made.host:
        yield made


def call(node: Node, *words: str) -> Called:
    return Called(CliRunner().invoke(cli.main, list(words), obj=node.site, prog_name="ib-sriov"))


# The simulated PF's netdev is not on this host, so every command reports that something could not be read.
READ_ENOUGH = (EXIT_OK, EXIT_INCOMPLETE)


def test_list_has_a_row_for_each_vf(node: Node) -> None:
    node.take_away(VFS[1])
    node.record(VFS[1])
    called = call(node, "list")
    assert called.status == EXIT_INCOMPLETE
    assert "nopf0" in called.err
    assert [row[0] for row in called.rows] == VFS
    assert called.rows[0][:4] == [VFS[0], "nopf0/0", "free", "-"]
    assert called.rows[1][2:8] == ["in", "use", "train/w-0", "ib", "net1", "10.1.2.3/24"]
    assert called.rows[2][7] == "02:00:00:00:00:00:00:03"


def test_list_wide_says_more(node: Node) -> None:
    called = call(node, "list", "--wide")
    assert called.out.splitlines()[0].split()[-5:] == ["DRIVER", "RDMA", "NETDEV", "LINK", "STATE"]
    assert called.rows[0][-4:-1] == ["mlx5_core", "mlx5_1", "ibvf0"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--state", "free"), [2, 3]),
        (("--state", "in-use", "--state", "unbound"), [0, 1]),
        (("--network", "ib"), [1]),
        (("--network", "other"), []),
        (("--pf", "nopf0", "--state", "unbound"), [0]),
        (("--pf", PF), [0, 1, 2, 3]),
        (("--pf", "mlx5_0"), [0, 1, 2, 3]),
        (("--pf", "eth7"), []),
    ],
)
def test_list_filters(node: Node, words: tuple[str, ...], expected: list[int]) -> None:
    node.unbind(VFS[0])
    node.take_away(VFS[1])
    node.record(VFS[1])
    assert [row[0] for row in call(node, "list", *words).rows] == [VFS[index] for index in expected]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("list", "--pf", "nosuch"), "no PF is named nosuch; PFs here: "),
        (("list", "--network", "nosuch"), "no attachment is of network nosuch; networks here: none"),
        (("gc", "--network", "nosuch"), "no attachment is of network nosuch; networks here: none"),
    ],
)
def test_names_that_nothing_has(node: Node, words: tuple[str, ...], said: str) -> None:
    assert said in call(node, *words).err
    assert said not in call(node, "list", "--pf", PF).err


def test_list_as_a_document(node: Node) -> None:
    node.take_away(VFS[1])
    record = node.record(VFS[1])
    doc = call(node, "list", "-o", "json").doc
    (pf,) = doc["pfs"]
    assert (pf["pci"], pf["netdev"], pf["totalVfs"]) == (PF, "nopf0", 16)
    assert pf["vfs"][1]["attachment"] == record.key.path
    assert pf["vfs"][0]["portGuid"] == "02:00:00:00:00:00:00:01"
    (held,) = doc["attachments"]
    assert held["pod"] == "train/w-0"
    assert held["since"] == "1970-01-01T00:00:01Z"
    assert doc["unseen"]


def test_list_as_a_tree(node: Node) -> None:
    node.take_away(VFS[1])
    node.record(VFS[1])
    node.record(VFS[0], "old", committed=False)
    out = call(node, "list", "--tree").out
    assert f"PF nopf0  {PF}, mlx5_0, 4 of 16 VFs (2 free, 1 in use, 1 leftover)" in out
    assert "pod train/w-0  network ib, interface net1" in out
    assert "its ADD was never finished" in out


def test_list_shows_an_attachment_whose_vf_is_gone(node: Node) -> None:
    from ib_sriov_cni.core.values import PciAddress

    node.record(PciAddress("0000:77:00.1"), "lost", boot_id="another")
    called = call(node, "list")
    assert called.rows[-1][:4] == ["0000:77:00.1", "-", "dead", "train/lost"]
    assert "attachments without a VF here" in call(node, "list", "--tree").out
    with node.host:
        assert filter_inventory(read_inventory(node.host), pf="", states=("free",), network="").attachments == ()


def test_list_on_a_host_without_hca(tmp_path: Path) -> None:
    from ib_sriov_cni.cli.output import Site

    called = Called(CliRunner().invoke(cli.main, ["list"], obj=Site(str(tmp_path))))
    assert "no InfiniBand PF with SR-IOV on this node" in called.err
    assert called.rows == []


def test_list_without_vfs(tmp_path: Path) -> None:
    import shutil

    node = Node(tmp_path)
    for link in node.tree.device(PF).glob("virtfn*"):
        shutil.rmtree(link.resolve())
        link.unlink()
    assert f"/sys/bus/pci/devices/{PF}/sriov_numvfs" in call(node, "list").err


def test_show_a_dead_one(node: Node) -> None:
    node.record(VFS[0], boot_id="another")
    called = call(node, "show", "w-0")
    assert called.status == EXIT_PROBLEM
    assert "it was made before the last boot" in called.out
    assert "10.1.2.3/24" in called.out
    doc = call(node, "show", "w-0", "-o", "json").doc
    assert doc["differences"] == [{"kind": "dead", "words": "it was made before the last boot"}]
    assert doc["record"]["schema"] == 1
    assert Path(doc["recordFile"]).is_file()


def test_show_one_that_is_passed_through(node: Node) -> None:
    """Its driver leaves nothing in the pod that could be looked for."""
    node.take_away(VFS[0])
    node.unbind(VFS[0])
    node.tree.bind(VFS[0], "mlx5_vfio_pci")
    node.record(VFS[0], driver="mlx5_vfio_pci", rdma_isolation=False, sets_guid=False, port_guid=Guid(0))
    out = call(node, "show", "w-0").out
    assert "passed through to a virtual machine by mlx5_vfio_pci" in out
    assert "the whole device is for a virtual machine" in out
    assert "no interface in the pod" not in out
    assert "none, or not known: no PF here reports it" in out


def test_show_what_is_not_there(node: Node) -> None:
    node.record(VFS[0])
    called = call(node, "show", "nobody")
    assert called.status == EXIT_NOT_FOUND
    assert "no attachment matches 'nobody'" in called.err
    assert "Known here: train/w-0" in called.err


def test_names_of_attachments(node: Node) -> None:
    node.record(VFS[0], "abcdef", boot_id="x")
    node.record(VFS[1], "abcxyz", boot_id="x")
    with node.host:
        attachments = read_inventory(node.host).attachments
    for name in ("train/abcdef", "abcdef", "c-abcdef", "c-abcd", VFS[0], VFS[0].upper(), "ib/c-abcdef:net1"):
        assert find_attachment(name, attachments).key.container_id == "c-abcdef"
    with pytest.raises(Failure, match="2 attachments") as refusal:
        find_attachment("c-abc", attachments)
    assert refusal.value.exit_code == EXIT_NOT_FOUND
    for name in ("c-a", "", "zzz"):
        with pytest.raises(Failure):
            find_attachment(name, attachments)


def test_the_living_one_of_two_is_meant(node: Node) -> None:
    node.take_away(VFS[0])
    node.record(VFS[0], "old", committed=False)
    node.record(VFS[0], "new")
    with node.host:
        assert find_attachment(VFS[0], read_inventory(node.host).attachments).name == "train/new"


def test_check_says_what_is_dead(node: Node) -> None:
    assert call(node, "check").status in READ_ENOUGH
    node.record(VFS[0], boot_id="another")
    called = call(node, "check", "--all")
    assert called.status == EXIT_PROBLEM
    assert called.rows[0][:4] == ["train/w-0", "net1", VFS[0], "fail"]
    assert call(node, "check", "w-0", "--all").status == 2
    assert call(node, "check", "nobody").status == EXIT_NOT_FOUND


def test_gc_releases_the_dead_and_nothing_else(node: Node) -> None:
    node.take_away(VFS[1])
    alive = node.record(VFS[1], "alive")
    node.record(VFS[0], "dead", boot_id="another")
    before = tree(node.root)
    called = call(node, "gc", "--dry-run")
    assert called.status == EXIT_INCOMPLETE
    assert called.rows[0][0] == "train/dead"
    assert "would be released" in called.out
    assert tree(node.root) == before
    assert call(node, "gc", "--network", "other", "-o", "json").doc["attachments"] == []
    (released,) = call(node, "gc", "-o", "json").doc["attachments"]
    assert (released["pod"], released["outcome"]) == ("train/dead", "released")
    assert node.host.records.read_keys() == [alive.key]
    assert "1 live attachment" in call(node, "gc").err


def test_gc_says_what_it_could_not_release(node: Node) -> None:
    """The simulated driver's bind file binds nothing, so the release fails and the record stays."""
    node.record(VFS[0], "dead", committed=False)
    node.unbind(VFS[0])
    called = call(node, "gc")
    assert called.status == EXIT_FAILED
    assert "failed: train/dead: " in called.err
    assert len(node.host.records.read_keys()) == 1


def test_repair_says_what_it_would_do_and_does_it(node: Node) -> None:
    node.record(VFS[0], boot_id="another")
    node.unbind(VFS[1])
    (node.tree.device(VFS[1]) / "driver_override").write_text("vfio-pci\n")
    called = call(node, "repair", "--dry-run")
    assert called.status == EXIT_PROBLEM
    assert called.rows[0][:2] == ["release", "train/w-0"]
    assert "not repaired: VF 0000:3b:00.3 has no driver" in called.err
    assert "driver_override says vfio-pci" in called.err
    doc = call(node, "repair", "-o", "json", "w-0").doc
    assert [each["outcome"] for each in doc["repairs"]] == ["done"]
    assert doc["findings"] == []
    (node.tree.device(VFS[1]) / "driver_override").unlink()
    assert call(node, "repair", "--kind", "release").status in READ_ENOUGH
    assert call(node, "repair", "--kind", "nonsense").status == 2
    failed = call(node, "repair")  # the simulated driver's bind file binds nothing
    assert failed.status == EXIT_FAILED
    assert "failed: bind VF 0000:3b:00.3 to mlx5_core" in failed.err


def test_attachments_are_completed(node: Node) -> None:
    node.record(VFS[0])
    command = cli.main.get_command(None, "show")  # type: ignore[arg-type]  # the context is not used
    assert command is not None
    with command.make_context("show", ["x"], obj=node.site) as context:
        argument = next(each for each in command.params if each.name == "name")
        assert [item.value for item in argument.shell_complete(context, "train/")] == ["train/w-0"]
        assert argument.shell_complete(context, "nothing") == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_watch_tells_changes_line_by_line_and_ends_when_asked(node: Node, end: signal.Signals) -> None:
    code = (
        "import sys\nfrom ib_sriov_cni.cli import main\nfrom ib_sriov_cni.cli.output import Site\n"
        "main(['watch', '--interval', '0.1'], prog_name='ib-sriov', obj=Site(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(node.root)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests run in the background ignore SIGINT, and this process would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdout is not None
    try:
        first = [process.stdout.readline() for _ in VFS]
        assert [line.split()[1:3] for line in first] == [[pci, "free"] for pci in VFS]
        node.unbind(VFS[2])
        changed = process.stdout.readline()
        assert f"{VFS[2]} free -> unbound" in changed
    finally:
        process.send_signal(end)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, ""), err


def test_a_refusal_is_a_message_a_hint_and_a_status(node: Node) -> None:
    """An error of the CNI command is reported as the command's own failure."""
    called = call(node, "add", "--device", VFS[0], "--netns", "/proc/self/ns/net")
    assert called.status == EXIT_FAILED
    assert "is the plugin's own network namespace (code 8)" in called.err
    assert "what to do: nothing was changed" in called.err


@pytest.mark.parametrize("words", ["show x", "check", "gc", "repair", "del x"])
def test_what_is_about_attachments_says_that_it_cannot_see_them(node: Node, words: str) -> None:
    """It must not report that there is nothing to do. A symlink loop stands in for missing permission."""
    node.state.parent.mkdir(parents=True)
    os.symlink("loop", node.root / "var/lib/cni/loop")
    os.symlink("loop", node.state)
    called = call(node, *words.split())
    assert called.status == EXIT_FAILED
    assert "cannot read the records of attachments" in called.err
    assert called.out == ""
    assert call(node, "list").status == EXIT_INCOMPLETE
