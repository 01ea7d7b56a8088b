"""Fixtures of the IPAM tests."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.ipam.calls import ROOT


@pytest.fixture(scope="session")
def go() -> tuple[str, ...]:
    """The Go host-local, built once into the cache."""
    builder = os.path.join(ROOT, "tests", "tools", "go-client")
    done = subprocess.run([builder, "host-local"], check=True, stdout=subprocess.PIPE, text=True)
    return (done.stdout.strip(),)
