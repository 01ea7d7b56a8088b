"""The doctor's checks on facts made for the test: each is OK on a healthy node and finds its problem."""

from __future__ import annotations

import pytest

from ib_sriov_cni.doctor import report
from ib_sriov_cni.doctor.catalogue import CHECKS, run_checks, select_checks
from ib_sriov_cni.doctor.facts import AllFacts
from ib_sriov_cni.doctor.report import FAIL, NOTE, OK, SKIP, WARN, Finding
from ipam.protocol.value import replace
from tests.unit import doctor_cases_hca, doctor_cases_state
from tests.unit.doctor_case import Case
from tests.unit.doctor_node import HEALTHY, change

CASES = [*doctor_cases_hca.CASES, *doctor_cases_state.CASES]


@pytest.mark.parametrize("identity", CHECKS)
def test_a_healthy_node_is_ok(identity: str) -> None:
    found = CHECKS[identity].run(HEALTHY)
    assert [(finding.check, finding.status) for finding in found] == [(identity, OK)] * len(found), found
    assert found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}-{case.status}-{case.text[:30]}")
def test_what_a_check_finds(case: Case) -> None:
    found = CHECKS[case.check].run(case.facts)
    matching = [each for each in found if each.status == case.status and case.text in each.text]
    assert matching, found
    assert any(case.hint in each.hint for each in matching), found


def test_every_check_finds_something() -> None:
    assert {case.check for case in CASES if case.status in {FAIL, WARN, NOTE}} == set(CHECKS)


@pytest.mark.parametrize("identity", CHECKS)
def test_what_could_not_be_read_is_skipped_with_its_reason(identity: str) -> None:
    nothing = AllFacts(unread=dict.fromkeys(("hca", "config", "ports", "state", "node"), "the reason"))
    found = CHECKS[identity].run(nothing)
    assert {finding.status for finding in found} == {SKIP}
    assert all("the reason" in finding.text for finding in found)


@pytest.mark.parametrize("identity", ["rdma-mode", "addresses", "slices", "config-guid", "ipam-plugin", "config"])
def test_configurations_that_only_root_can_read(identity: str) -> None:
    found = CHECKS[identity].run(change("config", networks=(), pools=(), unread=("/etc/cni/net.d",)))
    assert {finding.status for finding in found} == {SKIP}


def test_a_fault_of_a_check_is_a_line_of_the_report() -> None:
    (found,) = CHECKS["vf-driver"].run(replace(HEALTHY, hca=replace(HEALTHY.hca, hcas=(None,))))
    assert found.status == SKIP
    assert "this check itself failed: AttributeError" in found.text


def test_a_failure_or_warning_says_what_to_do() -> None:
    for each in CASES:
        for finding in CHECKS[each.check].run(each.facts):
            assert finding.hint or finding.status not in {FAIL, WARN}, finding
            assert "\n" not in finding.text + finding.hint


def test_findings_are_sorted_and_counted() -> None:
    found = [
        Finding(check=str(number), status=status, text="") for number, status in enumerate((OK, WARN, FAIL, OK, SKIP))
    ]
    assert [finding.check for finding in report.sort_findings(found)] == ["2", "1", "4", "0", "3"]
    assert report.summarize(found) == "1 FAIL, 1 WARN, 2 OK, 1 not checked"
    assert report.summarize([]) == "0 OK"


@pytest.mark.parametrize(
    ("statuses", "strict", "status"),
    [
        ((OK, NOTE, SKIP), False, 0),
        ((OK, WARN), False, 0),
        ((WARN,), True, 1),
        ((OK, FAIL), False, 1),
        ((NOTE,), True, 0),
    ],
)
def test_exit_status(statuses: tuple[str, ...], strict: bool, status: int) -> None:
    found = [Finding(check="x", status=each, text="") for each in statuses]
    assert report.exit_status(found, strict=strict) == status


def test_checks_are_chosen_by_id() -> None:
    assert [check.id for check in select_checks(["sm", "hca"], [])] == ["hca", "sm"]
    assert [check.id for check in select_checks([], list(CHECKS)[1:])] == ["hca"]
    with pytest.raises(KeyError):
        select_checks(["nonsense"], [])


def test_a_shortened_list_is_never_longer_than_it_was() -> None:
    assert report.render_names(["a", "b", "c", "d"]) == "a, b, c, d"
    assert report.render_names(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_machine_without_an_hca_fails_once() -> None:
    facts = change("hca", hcas=(), modules=frozenset(), rdma_mode="")
    found = run_checks([CHECKS[name] for name in CHECKS if name not in {"device-plugin", "devinfo"}], facts)
    assert [finding.check for finding in found if finding.status in {FAIL, WARN}] == ["hca"]
