"""Pure: values, errors, the configuration, the plan of an ADD, the comparison of wanted and found.

May import this package and ipam.protocol. Does no I/O: every function gives the same answer for the same arguments.
"""

from __future__ import annotations
