"""In the place of the plugin, in the program that tests are run with: run the script that the first argument names."""

from __future__ import annotations

import sys


def run() -> None:
    del sys.argv[0]
    with open(sys.argv[0], encoding="utf-8") as file:
        code = compile(file.read(), sys.argv[0], "exec")
    exec(code, {"__name__": "__main__"})  # noqa: S102  # that is its purpose
