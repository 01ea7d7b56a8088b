"""What a node has before a client runs: the programs, a CNI folder with our plugin, network configurations."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tests.lab import commands

PROJECT = Path(__file__).resolve().parents[3]
SUBNET = "10.56.0.0/24"


@cache
def program(name: str) -> str:
    """The path of a Go client: the variable CNI_CLIENT_<NAME>, or where tests/tools/go-client has built it."""
    named = os.environ.get(f"CNI_CLIENT_{name.upper().replace('-', '_')}")
    if named:
        return named
    done = commands.run([str(PROJECT / "tests/tools/go-client"), "--built", name], check=False)
    assert done.returncode == 0, f"{name} is not there: tests/tools/need clients ({done.stderr.strip()})"
    return done.stdout.strip()


def plugin_command() -> list[str]:
    """How our plugin is run; IB_SRIOV_PLUGIN names another command, as in tests.lab.cni."""
    named = os.environ.get("IB_SRIOV_PLUGIN")
    return shlex.split(named) if named else [sys.executable, "-m", "ib_sriov_cni"]


def bin_folder(folder: Path, programs: Iterable[str] = (), *, copies: bool = False, plugin: bool = True) -> str:
    """A CNI_PATH: our plugin as `ib-sriov`, and the Go programs named, as links or as copies; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    if plugin:
        own = folder / "ib-sriov"
        # the runtime's working directory is its own, and its environment reaches the plugin
        own.write_text(f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(PROJECT))} exec {shlex.join(plugin_command())}\n")
        own.chmod(0o755)
    for name in programs:
        link = folder / name.partition("@")[0]
        link.unlink(missing_ok=True)
        if copies:
            shutil.copy(program(name), link)
        else:
            link.symlink_to(program(name))
    return str(folder)


def plugin(pci: str, **more: Any) -> dict[str, Any]:
    """Our plugin's part of a list of plugins: one VF, addresses of the bundled IPAM."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": SUBNET}]]}
    return {"type": "ib-sriov", "deviceID": pci, "ipam": ipam, **more}


def conflist(version: str, plugins: list[dict[str, Any]], name: str = "ibnet") -> dict[str, Any]:
    return {"cniVersion": version, "name": name, "plugins": plugins}


def write_conf(folder: Path, conf: dict[str, Any], file: str = "10-ibnet.conflist") -> Path:
    """Write a network configuration where a client looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_text(json.dumps(conf, indent=1))
    return path
