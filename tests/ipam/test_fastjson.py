"""ipam.protocol.fastjson against json: the same values, the same rejections, and stricter where documented (C4)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.protocol import fastjson

PLAIN = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner) | st.dictionaries(PLAIN, inner),
    max_leaves=20,
)

REFUSED = [
    "",
    " ",
    "{",
    "[1,]",
    "{'a':1}",
    "nul",
    "1 2",
    "{} x",
    "\ufeff{}",
    "NaN",
    "Infinity",
    "-Infinity",
    "[NaN]",
    "1e999",
    "-1e999",
    '{"a":1,"a":2}',
    '[{"b":{"c":1,"c":1}}]',
    '"\ud800"',
    r'"\ud800"',
    r'["\uDFFF"]',
    r'{"\udc00":1}',
    '"\n"',
    "[" * 100_000,
    '{"a":' * 100_000,
    "+1",
    "01",
    ".5",
    "1.",
    "\x00",
    '"',
    "// x\n1",
    "9" * 5000,
]


@given(VALUES)
def test_as_json(obj: object) -> None:
    assert fastjson.loads(json.dumps(obj)) == obj
    assert fastjson.loads(json.dumps(obj, ensure_ascii=False, indent=1).encode()) == obj
    assert json.loads(fastjson.dumps(obj)) == obj
    assert fastjson.dumps(obj) == json.dumps(obj, separators=(",", ":"))


@given(st.text(max_size=12) | st.text('{}[],:"0123.eE+-\\u dtrufalsn', max_size=12))
def test_text_is_json_or_refused_as_by_json(text: str) -> None:
    try:
        ours = fastjson.loads(text)
    except ValueError:
        ours = ValueError
    try:
        theirs = json.loads(text)
    except ValueError:
        theirs = ValueError
    assert ours in (theirs, ValueError)
    if ours is not theirs and ours is ValueError:
        assert any(word in text for word in ("NaN", "Infinity", '"', "e", "E")), text


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:20]))
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        fastjson.loads(text)


@pytest.mark.parametrize("data", [b"\xff{}", b'"\xc3"', b"{}\x00", "{}".encode("utf-16"), b'"\xed\xa0\x80"'])
def test_bytes_that_are_not_utf8_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        fastjson.loads(data)


def test_pairs_of_surrogates_are_one_character() -> None:
    assert fastjson.loads(r'"\ud83d\ude00"') == "\U0001f600"


@pytest.mark.parametrize("obj", [float("nan"), float("inf"), object(), {1: object()}, b"x", {1, 2}])
def test_dumps_refuses(obj: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        fastjson.dumps(obj)


def test_dumps_refuses_a_circle_and_works_afterwards() -> None:
    circle: list[object] = []
    circle.append(circle)
    for _ in range(2):
        with pytest.raises(ValueError, match="deep"):
            fastjson.dumps(circle)
    assert fastjson.dumps([[]]) == "[[]]"


CASES = ['{"a":[1,2.5,"x",null,true]}', *REFUSED]
BLOCK_JSON = """
class NoJson:
    def find_spec(self, name, *rest):
        if name.startswith("json"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoJson())
"""


@pytest.mark.parametrize(
    "missing", ["", BLOCK_JSON, "sys.modules['_json'] = None", "import _json; _json.make_encoder = None"]
)
def test_without_the_accelerator_or_its_package(missing: str) -> None:
    program = f"""
import sys
{missing}
sys.path.insert(0, ".")
from ipam.protocol.fastjson import loads, dumps
for text in {CASES!a}:
    try:
        print(dumps(loads(text)))
    except ValueError as error:
        print("refused" if str(error) else "no reason given")
"""
    bare = [sys.executable, "-I", "-S", "-"]
    done = subprocess.run(bare, input=program, check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[:-1] == ['{"a":[1,2.5,"x",null,true]}'] + ["refused"] * len(REFUSED)
