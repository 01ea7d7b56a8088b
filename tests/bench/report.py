"""docs/performance.md from the results of the last `make bench`: tables between their markers, charts next to it.

    tests/bench/report.py

Reads .test-results/bench/*.json. A part whose results are missing stays as it is. The charts are SVG, drawn here.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import calls, measure  # noqa: E402  # found by the line above

DOCS = ROOT / "docs"
PICTURES = DOCS / "performance"
COLOURS = {"Go": "#6b7280", "source": "#0f766e", "packed": "#2563eb", "kernel": "#b45309"}
OTHER = "#be123c"
FONT = "font-family='sans-serif' font-size='12'"


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' {FONT}>"
    return "\n".join([head, f"<rect width='{width}' height='{height}' fill='#ffffff'/>", *parts, "</svg>", ""])


def text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#111827") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}'>{escape(words)}</text>"


def bar(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    shape = f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(width, 0.5):.1f}' height='{height:.1f}' fill='{colour}'>"
    return f"{shape}<title>{escape(title)}</title></rect>"


def bar_chart(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Wall time by case and program, medians."""
    left, right, line = 150, 640, 17
    medians = {(row["case"], row["program"]): statistics.median(row["wall"]) for row in rows}
    scale = (right - left - 60) / max(medians.values())
    y, parts = 24.0, [text(10, 16, title)]
    for case in dict.fromkeys(row["case"] for row in rows):
        y += 8
        parts.append(text(left - 8, y + line - 5, case, anchor="end"))
        for program in [row["program"] for row in rows if row["case"] == case]:
            value = medians[case, program]
            colour = COLOURS.get(program, OTHER)
            parts.append(bar(left, y, value * scale, line - 4, colour, f"{case}, {program}: {value:.1f} ms"))
            parts.append(text(left + value * scale + 4, y + line - 6, f"{value:.1f} {program}", colour=colour))
            y += line
    return svg(right + 60, int(y) + 16, parts)


def timeline(events: Sequence[dict[str, Any]]) -> str:
    """The steps of one ADD over time, one row each; the plugin's process and the verifying child in two blocks."""
    spans = [event for event in events if event["ph"] == "X"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    start = min(event["ts"] for event in spans)
    end = max(event["ts"] + event["dur"] for event in spans)
    left, right, line = 170, 760, 16
    scale = (right - left) / (end - start)
    y, parts = 24.0, [text(10, 16, f"one ADD, {(end - start) / 1000:.0f} ms")]
    for pid in dict.fromkeys(event["pid"] for event in sorted(spans, key=lambda event: float(event["ts"]))):
        y += 10
        colour = COLOURS["source"] if names[pid].startswith("ADD") else COLOURS[measure.PACKED]
        name = names[pid] if names[pid].startswith("ADD") else "the child that verifies"
        parts.append(text(10, y + line - 4, name, colour=colour))
        y += line
        own = sorted((event for event in spans if event["pid"] == pid), key=lambda event: (event["ts"], -event["dur"]))
        for event in own:
            x, width = left + (event["ts"] - start) * scale, event["dur"] * scale
            words = f"{event['dur'] / 1000:.1f}"
            parts.append(text(left - 8, y + line - 4, event["name"], anchor="end"))
            parts.append(bar(x, y + 2, width, line - 5, colour, f"{event['name']}: {words} ms"))
            if width > (right - left) / 2:
                parts.append(text(x + width - 4, y + line - 4, words, anchor="end", colour="#ffffff"))
            elif x + width > right - 40:
                parts.append(text(x - 4, y + line - 4, words, anchor="end"))
            else:
                parts.append(text(x + width + 4, y + line - 4, words))
            y += line
    return svg(right + 20, int(y) + 16, parts)


# The targets, as multiples of Go's time; the next two for each program.
AIMS = {"VERSION": 0.1, "ADD and DEL": 1.1}
AIM_REBIND, AIM_MEMORY, AIM_AT_ONCE, AIM_REFUSED = 1.2, 12.0, 1.2, 2.5
# The rows for the same work on the host, where there is no VF.
ON_HOST = {"VERSION": ["VERSION"], "ADD and DEL": ["ADD of a netdev", "DEL of a netdev"]}


def aims(lab: Sequence[dict[str, Any]], start: Sequence[dict[str, Any]], at_once: Sequence[dict[str, Any]] = ()) -> str:
    """Return the targets and what was reached, as Markdown; by medians."""
    wall = {(row["case"], row["program"]): statistics.median(row["wall"]) for row in lab}
    host = {(row["case"], row["program"]): statistics.median(row["wall"]) for row in start}
    peaks = {row["program"]: row["peak"] for row in lab if row["case"] == "ADD"}
    lines = ["| aim | program | aimed at | in the lab | on the host |", "|---|---|---|---|---|"]

    def line(aim: str, program: str, most: float, *values: float | None) -> None:
        cells = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append(f"| {aim} | {program} | {most:g} | {' | '.join(cells)} |")

    program = measure.PACKED
    if program in peaks:
        for case, most in AIMS.items():
            both = (_times_go(wall, case.split(" and "), program), _times_go(host, ON_HOST[case], program))
            line(f"{case}, times Go's", program, most, *both)
        go = wall.get(("ADD", "Go"), 0) + wall.get(("rebind alone", "kernel"), 0)
        new = wall.get(("ADD, new GUID", program))
        line("ADD with a new GUID, times Go's ADD and the rebind", program, AIM_REBIND, new / go if new else None, None)
        line("memory of an ADD, MiB", program, AIM_MEMORY, peaks[program], None)
        cpu = {(row["case"], row["program"]): statistics.median(row["cpu"]) for row in start}
        refused = _times_go(cpu, ["ADD, refused"], program)
        line("a refused ADD, times Go's processor time", program, AIM_REFUSED, None, refused)
    seconds = {(row["mode"], row["case"]): (row["one_s"], row["all_s"]) for row in at_once}
    for mode in dict.fromkeys(mode for mode, _ in seconds):
        (one, together), (rebind, _) = seconds[mode, "ADD"], seconds[mode, "bare rebind"]
        go = wall.get(("ADD", "Go"), 0) / 1000 + rebind
        delay, pods = at_once[0]["delay_ms"] / 1000, at_once[0]["pods"]
        words = f"a rebind of {delay:g} s, {mode}"
        line(f"ADD with {words}, times Go's ADD and the rebind", measure.PACKED, AIM_REBIND, one / go, None)
        # They are rebound one after the other.
        line(
            f"{pods} ADD at once with {words}, times {pods} rebinds",
            measure.PACKED,
            AIM_AT_ONCE,
            together / pods / rebind,
            None,
        )
    return "\n".join(lines)


def at_once_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one pod compared with many, when a VF's rebind is slow, as Markdown."""
    pods = rows[0]["pods"]
    lines = [f"| mode | case | one, s | {pods} at once, s | ratio | rounds |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["mode"], row["case"], f"{row['one_s']:.2f}", f"{row['all_s']:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {row['all_s'] / row['one_s']:.2f} | {row['rounds']} |")
    return "\n".join(lines)


def _times_go(times: dict[tuple[str, str], float], cases: Sequence[str], program: str) -> float | None:
    """Return the sum of some cases' times divided by Go's; None if one is missing."""
    ours, go = [[times.get((case, name)) for case in cases] for name in (program, "Go")]
    if None in ours or None in go:
        return None
    return sum(value or 0 for value in ours) / sum(value or 0 for value in go)


def read(name: str) -> Any:
    path = measure.RESULTS / f"{name}.json"
    if not path.exists():
        return None
    written = path.read_text()
    return json.loads(written) if not written.startswith("[\n{") else json.loads(written.rstrip(",\n") + "]")


def machine() -> str:
    """Return what machine the results were measured on, in a few words."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    python = ".".join(map(str, sys.version_info[:3]))
    words = model[1].strip() if model else os.uname().machine
    return f"{os.cpu_count()} cores of {words}, Linux {os.uname().release.partition('-')[0]}, CPython {python}"


def place(document: str, marker: str, body: str) -> str:
    """Put a body between the two comments of its marker."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    head, found, rest = document.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"docs/performance.md has no {begin} … {end}")
    return f"{head}{begin}\n{body}\n{end}{rest.partition(end)[2]}"


def main() -> int:
    PICTURES.mkdir(exist_ok=True)
    path = DOCS / "performance.md"
    document = path.read_text()
    done = []
    for name, title in (("lab", "an emulated HCA in the virtual machine, ms"), ("start", "without an HCA, ms")):
        rows = read(name)
        if rows:
            document = place(document, f"bench {name}", f"{measure.render(rows)}\n\nTaken on {machine()}.")
            (PICTURES / f"{name}.svg").write_text(bar_chart(rows, title))
            done.append(name)
    at_once = read("at_once")
    if read("lab"):
        document = place(document, "bench aims", aims(read("lab"), read("start") or [], at_once or []))
    if at_once:
        document = place(document, "bench at_once", f"{at_once_table(at_once)}\n\nTaken on {machine()}.")
        done.append("at_once")
    rows = read("calls")
    if rows:
        document = place(document, "bench calls", calls.table(rows))
        done.append("calls")
    events = read("trace")
    if events:
        (PICTURES / "timeline.svg").write_text(timeline(events))
        done.append("timeline")
    path.write_text(document)
    print("docs/performance.md:", ", ".join(done) or "no results, run make bench")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
