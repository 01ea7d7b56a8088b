"""Fixtures of the tests that ask an API server: a double of it behind TLS, and a pod's service account for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.api_double import Api, make_account, make_certificate, serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def api(certificate: tuple[Path, Path]) -> Iterator[Api]:
    with serving(certificate) as server:
        yield server


@pytest.fixture
def account(tmp_path: Path, certificate: tuple[Path, Path]) -> Path:
    return make_account(tmp_path, certificate)
