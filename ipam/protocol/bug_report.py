"""A defect in one line: the one place that turns an unexpected exception into words for people and logs."""

from __future__ import annotations

FRAMES = 6  # the innermost ones
TEXT_MAX = 300  # characters of the exception's own text, which may hold anything


def describe_defect(fault: BaseException) -> str:
    """Return type, text and places of an exception in one line, the places by file, line and function, inside out.

    Like this: `KeyError: 'x' (attach/add.py:12 add < cni.py:3 run)`.
    """
    places = []
    frame = fault.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        name = "/".join(code.co_filename.rsplit("/", 2)[-2:])
        places.append(f"{name}:{frame.tb_lineno} {code.co_name}")
        frame = frame.tb_next
    text = " ".join(str(fault).split())[:TEXT_MAX]
    where = " < ".join(reversed(places[-FRAMES:]))
    return f"{type(fault).__name__}: {text} ({where})" if where else f"{type(fault).__name__}: {text}"
