"""ipam.protocol.files: no special file or link in place of a file can block a call or redirect it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ipam.protocol.files import open_regular, read_regular


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read_regular(str(tmp_path / "file"), 10) == b"x" * 10
    folder = os.open(tmp_path, os.O_RDONLY)
    assert read_regular("file", 10, folder=folder) == b"x" * 10
    os.close(folder)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="larger than 10 bytes") as caught:
        read_regular(str(tmp_path / "file"), 10)
    assert caught.value.errno == errno.EFBIG


def test_a_fifo_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(str(tmp_path / "fifo"), flags)
    with pytest.raises(OSError, match="No such device or address"):  # no reader
        open_regular(str(tmp_path / "fifo"), os.O_WRONLY)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/tty", "/"])
def test_devices_and_folders(path: str) -> None:
    with pytest.raises(OSError, match=r"."):
        read_regular(path, 10)


def test_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="symbolic links") as caught:
        read_regular(str(tmp_path / "link"), 10)
    assert caught.value.errno == errno.ELOOP
    assert read_regular(str(tmp_path / "link"), 10, follow=True) == b"x"


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    for name in ("fifo", "absent"):
        with pytest.raises(OSError, match=r"."):
            read_regular(str(tmp_path / name), 10)
    assert os.listdir("/proc/self/fd") == before
