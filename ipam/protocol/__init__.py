"""The CNI protocol as every plugin needs it: request, result, errors, versions, entry point; JSON and value classes.

May import only itself and the standard library. Only edge.py does I/O, on the streams that are passed to it.
"""

from __future__ import annotations
