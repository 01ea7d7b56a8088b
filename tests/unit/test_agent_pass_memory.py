"""ib_sriov_cni.agent.pass_memory: waiting, retrying and giving up."""

from __future__ import annotations

import pytest

from ib_sriov_cni.agent.pass_memory import FIRST_PAUSE, LAST_PAUSE, REPEAT_LIMIT, REPEAT_WINDOW, Watch


def test_the_wait_begins_with_the_first_sight() -> None:
    watch = Watch()
    watch.see(["a"], 100)
    watch.see(["a", "b"], 130)
    assert (watch.due("a", 60), watch.due("b", 60)) == (160, 190)


def test_what_was_away_begins_anew() -> None:
    watch = Watch()
    watch.see(["a"], 100)
    watch.see([], 110)
    watch.see(["a"], 120)
    assert watch.due("a", 60) == 180


def test_what_fails_is_tried_again_and_ever_later() -> None:
    watch = Watch()
    watch.see(["a"], 0)
    pauses = []
    now = 0.0
    for _ in range(8):
        watch.fail("a", now)
        pauses.append(watch.due("a", 0) - now)
        now = watch.due("a", 0)
    assert pauses[0] == FIRST_PAUSE
    assert pauses[1] == FIRST_PAUSE * 2
    assert pauses[-1] == LAST_PAUSE
    watch.succeed("a", now)
    assert watch.due("a", 0) == 0


def test_what_is_gone_forgets_its_failures() -> None:
    watch = Watch()
    watch.see(["a"], 0)
    watch.fail("a", 0)
    watch.see([], 1)
    watch.see(["a"], 2)
    assert watch.due("a", 0) == 2


def test_what_has_to_be_done_often_is_undone_by_somebody() -> None:
    watch = Watch()
    for count in range(REPEAT_LIMIT):
        assert not watch.is_undone_repeatedly("a", count)
        watch.see(["a"], count)
        watch.succeed("a", count)
        watch.see([], count)  # repaired: the next pass does not see it
    assert watch.is_undone_repeatedly("a", REPEAT_LIMIT)
    assert not watch.is_undone_repeatedly("b", REPEAT_LIMIT)
    assert not watch.is_undone_repeatedly("a", REPEAT_LIMIT + REPEAT_WINDOW)


def test_old_repairs_are_forgotten() -> None:
    watch = Watch()
    watch.see(["a"], 0)
    watch.succeed("a", 0)
    watch.see([], REPEAT_WINDOW + 1)
    assert not watch._done  # noqa: SLF001  # a day of repairs must not stay in memory


def test_what_was_never_seen_has_no_due() -> None:
    with pytest.raises(KeyError):
        Watch().due("a", 1)
