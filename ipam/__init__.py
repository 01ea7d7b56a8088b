"""The CNI protocol and the bundled host-local IPAM plugin; stands alone and never imports ib_sriov_cni."""

from __future__ import annotations
