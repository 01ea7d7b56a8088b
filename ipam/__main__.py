"""`python -m ipam` runs ib-host-local."""

from __future__ import annotations

import sys

from ipam.host_local.plugin import main

sys.exit(main())
