"""Control characters that a pod put into a name are shown escaped, never sent to the terminal."""

from __future__ import annotations

import io
import json

import pytest

from ib_sriov_cni.cli.output import Failure, echo, open_console, print_json, print_table, printable

EVIL = "net\x1b[2J\x1b]0;title\x07\r\x9b1mred\udcff"
SHOWN = "net\\x1b[2J\\x1b]0;title\\x07\\x0d\\x9b1mred\\xdcff"


def test_what_is_printable_stays() -> None:
    text = "net1 ü 网络\n\tx"
    assert printable(text) == text
    assert printable(EVIL) == SHOWN


def test_lines_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    echo(EVIL)
    print_table(("NAME", "NOTE"), [("a", EVIL)])
    Failure(EVIL, EVIL).show()
    out, err = capsys.readouterr()
    for said in (out, err):
        assert not {c for c in said if not c.isprintable()} - {"\n"}
    assert out.count("\\x1b[2J") == 2


def test_a_terminal_gets_rich_s_own_sequences_and_no_others() -> None:
    from rich.text import Text

    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]  # pretend that it is a terminal
    console = open_console(stream)
    console.print(Text("name ", style="bold"), Text(EVIL))
    said = stream.getvalue()
    assert "\x1b[1m" in said
    assert "\x1b[2J" not in said
    assert not {c for c in said if not c.isprintable()} - {"\n", "\x1b"}


def test_json_is_still_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": EVIL, "other": "ü"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": EVIL, "other": "ü"}
    assert not {c for c in out if not c.isprintable()} - {"\n"}
