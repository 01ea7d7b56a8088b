"""Whether a test has passed: what it left is looked at more closely if it has not."""

from __future__ import annotations

from collections.abc import Generator

import pytest

PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the outcome of the test itself; a conftest imports this hook."""
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


def has_passed(request: pytest.FixtureRequest) -> bool:
    """Return whether the test of a fixture has passed; false before it has ended."""
    return bool(request.node.stash.get(PASSED, False))
