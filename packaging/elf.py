"""What an ELF file contains: its name, what it needs, which versions of glibc's symbols. Read with objdump."""

from __future__ import annotations

import re
import subprocess


def _told(path: str, option: str) -> str:
    environ = {"LC_ALL": "C", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    return subprocess.run(["objdump", option, path], capture_output=True, text=True, check=True, env=environ).stdout


def needed(path: str) -> list[str]:
    """Return the SONAMEs of the libraries that the dynamic linker must have."""
    return re.findall(r"^\s+NEEDED\s+(\S+)$", _told(path, "-p"), re.MULTILINE)


def soname(path: str) -> str | None:
    match = re.search(r"^\s+SONAME\s+(\S+)$", _told(path, "-p"), re.MULTILINE)
    return match.group(1) if match else None


def glibc(path: str) -> tuple[int, ...]:
    """Return the newest version of glibc's symbols that it refers to, () for none."""
    found = re.findall(r"\bGLIBC_(\d+(?:\.\d+)+)", _told(path, "-T"))
    return max((tuple(int(part) for part in item.split(".")) for item in found), default=())
