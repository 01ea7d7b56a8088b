"""In the place of pyverbs' empty __init__."""

from __future__ import annotations

# No part of pyverbs is in the archive at the program's end. Its enums look for "pyverbs.collections" and "pyverbs.enum"
# first, as Python 2 did: for that the whole list of the archive would be read.
__path__: list[str] = []
