"""What every CNI plugin needs of the protocol: request, result, errors, versions, the edge; JSON and value classes.

May import nothing but itself and the standard library. Only edge.py reads and writes, on the streams it is handed.
"""

from __future__ import annotations
