"""`ib-sriov doctor` on fake nodes: what a user sees."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ib_sriov_cni import cli
from ib_sriov_cni.cli.doctor import render_findings
from ib_sriov_cni.cli.output import Site
from ib_sriov_cni.doctor.catalogue import CHECKS, render_checks, run_checks
from ib_sriov_cni.doctor.report import STATUSES, Finding, summarize
from tests.unit import doctor_cases_hca, doctor_cases_state
from tests.unit.doctor_node import HEALTHY, PF, VF1, make_node, write_conf
from tests.unit.trees import tree, write

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 100
MORE = "(and a udev rule or unit that does so at boot)"


def doctor(root: Path, *arguments: str) -> Result:
    call = ["doctor", "--timeout", "60", *arguments]
    result = CliRunner().invoke(cli.main, call, obj=Site(root=str(root)), prog_name="ib-sriov")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def lines(result: Result, status: str) -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith(f"{status} ")]


def test_a_made_node_is_quiet(tmp_path: Path) -> None:
    make_node(tmp_path)
    write_conf(tmp_path)
    before = tree(tmp_path)
    result = doctor(tmp_path)
    assert (lines(result, "FAIL"), lines(result, "WARN")) == ([], []), result.output
    # The kernel does not know the fake PF, and the plugin program is not run in this test.
    assert {line.split()[1] for line in lines(result, "SKIP")} >= {"answers", "plugin"}
    assert result.exit_code == 5
    assert result.output.rstrip().splitlines()[-1].endswith("not checked")
    assert tree(tmp_path) == before


def test_the_worst_comes_first_and_says_what_to_do(tmp_path: Path) -> None:
    made = make_node(tmp_path)
    write(made.device(PF) / "sriov_numvfs", "0\n")
    os.unlink(made.device(PF) / "virtfn0")
    os.unlink(made.device(PF) / "virtfn1")
    result = doctor(tmp_path, "--only", "hca,vfs")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "FAIL  vfs             PF eth100 (0000:3b:00.0) has no VFs, 16 are possible",
        f"                      -> echo 8 > /sys/bus/pci/devices/{PF}/sriov_numvfs {MORE}",
        "OK    hca             1 InfiniBand HCA: PF eth100 (0000:3b:00.0)",
        "",
        "1 FAIL, 1 OK",
    ]


@pytest.mark.parametrize(("arguments", "status"), [((), 0), (("--strict",), 1)])
def test_a_warning_is_a_failure_if_strict(tmp_path: Path, arguments: tuple[str, ...], status: int) -> None:
    made = make_node(tmp_path)
    write(made.device(PF) / "net/eth100/flags", "0x1002\n")
    result = doctor(tmp_path, "--only", "pf-up", *arguments)
    assert (result.exit_code, len(lines(result, "WARN"))) == (status, 1)


def test_a_misspelt_key(tmp_path: Path) -> None:
    make_node(tmp_path)
    write_conf(tmp_path, linkState="auto")
    (found,) = lines(doctor(tmp_path, "--only", "config"), "WARN")
    assert "linkState is not a known key and is ignored; did you mean link_state?" in found


def test_json(tmp_path: Path) -> None:
    make_node(tmp_path)
    result = doctor(tmp_path, "-o", "json", "--skip", "kernel")
    document = json.loads(result.output)
    assert {finding["check"] for finding in document["findings"]} == set(CHECKS) - {"kernel"}
    assert set(document["counts"]) == set(STATUSES)
    assert sum(document["counts"].values()) == len(document["findings"])
    assert all(set(finding) == {"check", "status", "text", "hint"} for finding in document["findings"])


def test_a_machine_with_nothing(tmp_path: Path) -> None:
    result = doctor(tmp_path)
    assert result.exit_code == 1
    assert [line.split()[1] for line in lines(result, "FAIL")] == ["hca", "plugin"]
    assert "nothing to check" in result.output


def test_a_firmware_that_hangs(tmp_path: Path) -> None:
    made = make_node(tmp_path)
    state = made.device(VF1) / "infiniband/mlx5_2/ports/1/state"
    state.unlink()
    os.mkfifo(state)
    result = doctor(tmp_path, "--timeout", "2")
    assert result.exit_code == 1
    # The limit grows with how slow the machine is.
    assert re.search(r"no answer within [\d.]+ s: port states", lines(result, "FAIL")[0])
    assert "OK    hca" in result.output
    assert "SKIP  pf-port" in result.output


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe\x00", b"4: ACTIVE" * 1000, b"-1\n"])
def test_junk_everywhere_is_no_traceback(tmp_path: Path, junk: bytes) -> None:
    make_node(tmp_path)
    write_conf(tmp_path)
    for path in sorted((tmp_path / "sys").rglob("*")):
        if path.is_file() and path.name not in {"bind", "unbind"}:
            path.write_bytes(junk)
    others = (
        *("proc/locks", "proc/sys/kernel/osrelease", "etc/cni/net.d/10-ib.conf", "opt/cni/bin/ib-sriov"),
        "var/lib/cni/ib-sriov/attachments/n/c:i.json",
        "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
    )
    for name in others:
        write(tmp_path / name, "")
        (tmp_path / name).write_bytes(junk)
    result = doctor(tmp_path)
    assert result.exit_code in {0, 1, 5}
    assert "itself failed" not in result.output
    assert "Error" not in "".join(lines(result, "SKIP")), result.output


@pytest.mark.parametrize("arguments", [("--only", "nonsense"), ("--explain", "nonsense"), ("--config", "/none")])
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = doctor(tmp_path, *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_explain_and_list(tmp_path: Path) -> None:
    assert CHECKS["sm"].title in doctor(tmp_path, "--explain", "sm").output
    listed = doctor(tmp_path, "--list").output
    assert [line.split()[0] for line in listed.splitlines()[1:]] == list(CHECKS)


def findings() -> list[Finding]:
    cases = [*doctor_cases_hca.CASES, *doctor_cases_state.CASES]
    return [finding for case in cases for finding in CHECKS[case.check].run(case.facts)]


def test_every_line_fits_the_terminal() -> None:
    found = [*findings(), *run_checks(CHECKS.values(), HEALTHY)]
    shown = [line.plain for line in render_findings(found, COLUMNS)]
    assert max(map(len, shown)) <= COLUMNS
    assert shown[-1] == summarize(found)


def test_on_a_terminal(tmp_path: Path) -> None:
    """The same on a pseudo-terminal of that width, with colours."""
    make_node(tmp_path)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    code = (
        "import sys; from ib_sriov_cni import cli; from ib_sriov_cni.cli.output import Site;"
        "cli.main(['doctor', '--timeout', '60'], obj=Site(root=sys.argv[1]))"
    )
    environ = {name: item for name, item in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env={**environ, "TERM": "xterm"}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:
        pass  # EIO: the last process using the terminal has ended
    finally:
        os.close(ours)
    assert process.wait() == 5
    assert b"\x1b[" in text
    shown = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()
    assert len(shown) > 20
    assert max(map(len, shown)) <= COLUMNS


def test_few_findings_need_more_than_three_lines() -> None:
    assert [each for each in findings() if len(render_findings([each], COLUMNS)) - 2 > 4] == []


def test_the_document_has_every_check() -> None:
    text = (ROOT / "docs/doctor.md").read_text()
    assert text.endswith(f"## The checks\n\n{render_checks()}"), "run make reference"
