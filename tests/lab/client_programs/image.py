"""An image made of busybox-static on the spot: pause container and workload of the tests."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

NAME = "lab.local/busybox:1"
PAUSE = ["/bin/sleep", "2147483647"]
APPLETS = ("sh", "sleep", "ip", "ping", "ls", "cat", "true")
LIBRARY = re.compile(r"(/\S+) \(0x")


def with_libraries(paths: Iterable[str]) -> dict[str, Path]:
    """Programs, and folders of shared objects, with all that they are linked with: place in the image to file."""
    files = {}
    for path in paths:
        for each in [path] if os.path.isfile(path) else sorted(map(str, Path(path).iterdir())):
            files[each] = Path(each)
            said = subprocess.run(["ldd", each], capture_output=True, text=True, check=False).stdout
            files.update({library: Path(library) for library in LIBRARY.findall(said)})
    return files


def member(
    name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o755, target: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, target, size
    return info


def layer(busybox: Path | None = None, files: dict[str, Path] | None = None) -> bytes:
    """The root file system as a tar archive; busybox is the one on PATH unless one is named.

    `files` are further ones, by their place; they come before an applet of the same name.
    """
    found = busybox or shutil.which("busybox")
    assert found, "busybox is missing: tests/tools/need lab"
    binary = Path(found).read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            tar.addfile(member(folder, kind=tarfile.DIRTYPE))
        tar.addfile(member("bin/busybox", size=len(binary)), io.BytesIO(binary))
        added = {place.lstrip("/"): path.read_bytes() for place, path in (files or {}).items()}
        for place, raw in added.items():
            tar.addfile(member(place, size=len(raw)), io.BytesIO(raw))
        for applet in APPLETS:
            if not any(place.endswith(f"bin/{applet}") for place in added):
                tar.addfile(member(f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox"))
    return out.getvalue()


def make_image(
    path: Path, busybox: Path | None = None, *, name: str = NAME, files: dict[str, Path] | None = None
) -> Path:
    """Write an image as `docker save` would; `files` as in `layer`."""
    root = layer(busybox, files)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": PAUSE},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(root).hexdigest()}"]},
        "history": [{"created_by": "busybox-static"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    parts = {
        "manifest.json": json.dumps(manifest).encode(),
        "config.json": json.dumps(config).encode(),
        "layer.tar": root,
    }
    with tarfile.open(path, "w") as tar:
        for part, raw in parts.items():
            tar.addfile(member(part, mode=0o644, size=len(raw)), io.BytesIO(raw))
    return path
