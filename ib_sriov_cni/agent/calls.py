r"""Read from the plugin's log file how CNI calls ended. Each line is read once, across log rotation and agent restarts.

The last line of a call (ib_sriov_cni.telemetry.log)::

    time=… level=info cmd=ADD pod=… container=… if=net1 msg=done code=0 ms=412.0
    time=… level=error cmd=ADD … msg=refused code=101 error="…" hint="…" ms=3.1

The offset file holds "<device> <inode> <checksum> <offset>\n": which file was read, a checksum of its beginning (inode
numbers are reused), and how many bytes were read. Without an offset file, reading starts at the end of the log: earlier
calls are not counted.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass

PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^" =\\]+)(?: |$)')
ENDINGS = ("done", "refused", '"internal fault"')
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
CHUNK = 1 << 16  # bytes
HEAD = 256  # bytes at the beginning that identify a log file; they include the time of the first line
LINE_MAX = 1 << 20  # bytes; the plugin writes no longer lines
READ_MAX = 1 << 24  # bytes per read(): a log that grew for days must not hold up a pass


@dataclass(frozen=True, kw_only=True)
class Call:
    """How a CNI call ended."""

    command: str
    code: int  # 0 for a success
    seconds: float


def parse_call(line: str) -> Call | None:
    """Return the call whose last line this is, or None for any other line."""
    if " code=" not in line:
        return None
    fields = dict(PAIR.findall(line))
    if fields.get("msg") not in ENDINGS or fields.get("cmd") not in COMMANDS:
        return None
    try:
        return Call(command=fields["cmd"], code=int(fields["code"]), seconds=float(fields["ms"]) / 1000)
    except (KeyError, ValueError):
        return None


class CallLog:
    """The plugin's log file. Each read() continues where the last one stopped."""

    def __init__(self, path: str, offset_file: str = "") -> None:
        """`offset_file` stores the position across restarts; "" means that it is not stored."""
        self._path = path
        self._offset_file = offset_file
        self._fd = -1
        self._identity = (0, 0)
        self._offset = 0
        self._rest = b""  # an incomplete last line
        self._saved = ""
        self._started = False

    def read(self) -> list[Call]:
        """Return the calls that ended since the last read. Raises OSError if the log cannot be read."""
        calls: list[Call] = []
        if not self._started:
            self._start(calls)
        try:
            status = os.stat(self._path)
            now = (status.st_dev, status.st_ino)
        except FileNotFoundError:
            now = (0, 0)  # it is being rotated, or nothing has been written yet
        if self._fd >= 0:
            self._drain(calls)
        if now != (0, 0) and (self._fd < 0 or now != self._identity):
            # Rotated. The old file has just been read to its end.
            self._open(self._path, 0)
            self._drain(calls)
        self._save()
        return calls

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _start(self, calls: list[Call]) -> None:
        """Continue where the last agent stopped: in this file, or in the one it was rotated to."""
        saved = self._read_offset()
        for path in (self._path, f"{self._path}.1"):
            try:
                self._open(path, 0)
            except FileNotFoundError:
                continue
            if saved is None:
                self._offset = os.fstat(self._fd).st_size  # skip what is already there
            elif saved[:3] == (*self._identity, self._checksum(saved[3])):
                self._offset = saved[3]
                self._drain(calls)
            else:
                self.close()  # not the file that was read last: it is read from its beginning
                continue
            break
        self._started = True

    def _open(self, path: str, offset: int) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW)
        self.close()
        status = os.fstat(fd)
        self._fd, self._identity, self._offset, self._rest = fd, (status.st_dev, status.st_ino), offset, b""

    def _drain(self, calls: list[Call]) -> None:
        if os.fstat(self._fd).st_size < self._offset + len(self._rest):
            self._offset, self._rest = 0, b""  # truncated (logrotate's copytruncate)
        left = READ_MAX
        while left > 0:
            chunk = os.pread(self._fd, CHUNK, self._offset + len(self._rest))
            if not chunk:
                return
            left -= len(chunk)
            *lines, rest = (self._rest + chunk).split(b"\n")
            self._offset += len(self._rest) + len(chunk) - len(rest)
            if len(rest) > LINE_MAX:
                self._offset += len(rest)
                rest = b""
            self._rest = rest
            calls += [call for call in map(parse_call, [line.decode(errors="replace") for line in lines]) if call]

    def _checksum(self, offset: int) -> int:
        return zlib.crc32(os.pread(self._fd, min(HEAD, offset), 0))

    def _read_offset(self) -> tuple[int, int, int, int] | None:
        try:
            with open(self._offset_file, encoding="ascii") as file:
                words = file.read(200).split()
            device, inode, checksum, offset = [int(word) for word in words if word.isdecimal()]
            return device, inode, checksum, offset
        except (OSError, ValueError):
            return None

    def _save(self) -> None:
        if not self._offset_file or self._fd < 0:
            return
        text = f"{self._identity[0]} {self._identity[1]} {self._checksum(self._offset)} {self._offset}\n"
        if text == self._saved:
            return
        temporary = f"{self._offset_file}.new"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(text)
        os.rename(temporary, self._offset_file)
        self._saved = text
