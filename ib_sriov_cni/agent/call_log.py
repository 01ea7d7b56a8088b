r"""Read from the plugin's log file how CNI calls ended. Each line is read once, across log rotation and agent restarts.

The last line of a call (ib_sriov_cni.telemetry.log)::

    time=… level=info cmd=ADD pod=… container=… if=net1 msg=done code=0 ms=412.0
    time=… level=error cmd=ADD … msg=refused code=101 error="…" hint="…" ms=3.1

A line may be cut off: the disk was full, or it is longer than bounds.LOG_LINE_BYTES (plugins before 0.1 wrote such
refusals), of which only the beginning and the end are kept. A refusal is counted if its code is in what is left. The
line of another process may follow on the same line then.

The offset file holds "<device> <inode> <checksum> <offset>\n": which file was read, a checksum of its beginning (inode
numbers are reused), and how many bytes were read. Without an offset file, reading starts at the end of the log: earlier
calls are not counted.
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass

from ib_sriov_cni.state.directory import replace_file
from ipam.protocol.bounds import LOG_LINE_BYTES
from ipam.protocol.files import open_regular, read_regular

PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^" =\\]+)(?: |$)')
BEGIN = re.compile(r"time=\d{4}-\d\d-\d\dT[0-9:.]+Z level=")
TAIL_MS = re.compile(r"(?:^| )ms=([0-9.]+)$")
REFUSED, DEFECT = "refused", '"internal fault"'
ENDINGS = ("done", REFUSED, DEFECT)
COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
CODE_DIGITS = 3
SECONDS_MAX = 86400.0
CHUNK = 1 << 16  # bytes
HEAD = 256  # bytes at the beginning that identify a log file; they include the time of the first line
KEPT = 4096  # bytes of the beginning of a line that is too long; the code of a refusal comes before its words
TAIL = 64  # bytes of its end
OFFSET_MAX = 200  # bytes of the offset file
READ_MAX = 1 << 22  # bytes per read(): a log that grew for days must not hold up a pass


@dataclass(frozen=True, kw_only=True)
class Call:
    """How a CNI call ended."""

    command: str
    code: int  # 0 for a success
    seconds: float | None  # None if the line was cut off before it


def parse_line(line: str) -> list[Call]:
    """Return the calls whose last lines these are: more than one if lines were cut off, mostly none."""
    if " code=" not in line:
        return []
    calls = []
    while line:
        fields, end = _parse_pairs(line)
        call = _make_call(fields, is_cut=end < len(line) or "error" in fields or "traceback" in fields)
        if call is not None:
            calls.append(call)
        following = BEGIN.search(line, max(end, 1)) if end < len(line) else None
        line = line[following.start() :] if following else ""
    return calls


def _parse_pairs(line: str) -> tuple[dict[str, str], int]:
    """Return the pairs at the beginning of a line, up to one that is cut off, and where they end."""
    fields: dict[str, str] = {}
    end = 0
    while (pair := PAIR.match(line, end)) is not None:
        if pair[1] == "time" and fields:
            break  # the one before was cut off between two pairs
        fields[pair[1]] = pair[2]
        end = pair.end()
    return fields, end


def _parse_long_line(beginning: str, end: str) -> list[Call]:
    """Return the call whose last line begins and ends so."""
    fields, _ = _parse_pairs(beginning)
    seconds = TAIL_MS.search(end)
    call = _make_call({**fields, **({"ms": seconds[1]} if seconds else {})}, is_cut=True)
    return [call] if call is not None else []


def _make_call(fields: dict[str, str], *, is_cut: bool) -> Call | None:
    """Return the call that ended so; of a line that was cut off after its code only if it was refused."""
    ending, command, code = fields.get("msg"), fields.get("cmd"), fields.get("code", "")
    if ending not in ENDINGS or command not in COMMANDS or not (code.isdecimal() and code.isascii()):
        return None
    seconds = _parse_seconds(fields.get("ms", ""))
    if len(code) > CODE_DIGITS or (seconds is None and (ending == "done" or "ms" in fields or not is_cut)):
        return None
    return Call(command=command, code=int(code), seconds=seconds)


def _parse_seconds(text: str) -> float | None:
    try:
        seconds = float(text) / 1000
    except ValueError:
        return None
    return seconds if 0 <= seconds <= SECONDS_MAX else None


class _Line:
    """What has been read of a line, which may have any length: all of a usual one, else its beginning and end."""

    def __init__(self) -> None:
        self.size = 0  # bytes read
        self._kept = bytearray()
        self._end = b""  # of a line that is too long

    def add(self, part: bytes) -> None:
        self.size += len(part)
        if self.size <= LOG_LINE_BYTES:
            self._kept += part
        else:
            self._end = (self._end or bytes(self._kept[-TAIL:])) + part
            self._end = self._end[-TAIL:]
            self._kept = (self._kept + part[:KEPT])[:KEPT]

    def parse(self) -> list[Call]:
        """Return the calls whose last lines are on this one."""
        kept = self._kept.decode(errors="replace")
        if self.size <= LOG_LINE_BYTES:
            return parse_line(kept)
        return _parse_long_line(kept, self._end.decode(errors="replace"))


class CallLog:
    """The plugin's log file. Each read() continues where the last one stopped."""

    def __init__(self, path: str, offset_file: str = "") -> None:
        """`offset_file` stores the position across restarts; "" means that it is not stored."""
        self._path = path
        self._offset_file = offset_file
        self._fd = -1
        self._identity = (0, 0)
        self._offset = 0  # of the line that is being read
        self._line = _Line()
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
        is_drained = self._fd < 0 or self._drain(calls)
        is_another = now != (0, 0) and (self._fd < 0 or now != self._identity)
        if is_another and is_drained:
            self._open(self._path, 0)  # rotated, and the old file has just been read to its end
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
        fd = open_regular(path, os.O_RDONLY)
        self.close()
        status = os.fstat(fd)
        self._fd, self._identity, self._offset, self._line = fd, (status.st_dev, status.st_ino), offset, _Line()

    def _drain(self, calls: list[Call]) -> bool:
        """Read on, but not for too long. Returns whether the end of the file was reached."""
        if os.fstat(self._fd).st_size < self._offset + self._line.size:
            self._offset, self._line = 0, _Line()  # truncated (logrotate's copytruncate)
        left = READ_MAX
        while left > 0:
            chunk = os.pread(self._fd, CHUNK, self._offset + self._line.size)
            if not chunk:
                return True
            left -= len(chunk)
            *ends, rest = chunk.split(b"\n")
            for part in ends:
                self._line.add(part)
                calls += self._line.parse()
                self._offset += self._line.size + 1
                self._line = _Line()
            self._line.add(rest)
        return False

    def _checksum(self, offset: int) -> int:
        return zlib.crc32(os.pread(self._fd, min(HEAD, offset), 0))

    def _read_offset(self) -> tuple[int, int, int, int] | None:
        try:
            words = read_regular(self._offset_file, OFFSET_MAX).decode("ascii").split()
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
        replace_file(self._offset_file, f"{self._offset_file}.new", text.encode(), private=False)
        self._saved = text
