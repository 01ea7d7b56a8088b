"""An image made of busybox-static on the spot: pause container and workload of the tests."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

NAME = "lab.local/busybox:1"
PAUSE = ["/bin/sleep", "2147483647"]
APPLETS = ("sh", "sleep", "ip", "ping", "ls", "cat", "true")


def member(
    name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o755, target: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, target, size
    return info


def layer(busybox: Path | None = None) -> bytes:
    """The root file system as a tar archive; busybox is the one on PATH unless one is named."""
    found = busybox or shutil.which("busybox")
    assert found, "busybox is missing: tests/tools/need lab"
    binary = Path(found).read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            tar.addfile(member(folder, kind=tarfile.DIRTYPE))
        tar.addfile(member("bin/busybox", size=len(binary)), io.BytesIO(binary))
        for applet in APPLETS:
            tar.addfile(member(f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox"))
    return out.getvalue()


def make_image(path: Path, busybox: Path | None = None) -> Path:
    """Write the image as `docker save` would."""
    root = layer(busybox)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": PAUSE},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(root).hexdigest()}"]},
        "history": [{"created_by": "busybox-static"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    parts = {
        "manifest.json": json.dumps(manifest).encode(),
        "config.json": json.dumps(config).encode(),
        "layer.tar": root,
    }
    with tarfile.open(path, "w") as tar:
        for name, raw in parts.items():
            tar.addfile(member(name, mode=0o644, size=len(raw)), io.BytesIO(raw))
    return path
