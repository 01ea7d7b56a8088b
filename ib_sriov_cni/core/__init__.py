"""Pure code: values, errors, the configuration, the plan of an ADD, the comparison of wanted and found.

May import this package and ipam.protocol. Does no I/O: the same arguments always give the same result.
"""

from __future__ import annotations
