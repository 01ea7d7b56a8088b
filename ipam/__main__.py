"""`python -m ipam` is ib-host-local."""

from __future__ import annotations

import sys

from ipam.plugin import main

sys.exit(main())
