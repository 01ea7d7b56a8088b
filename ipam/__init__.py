"""The CNI protocol and the bundled host-local IPAM plugin. Independent: never imports ib_sriov_cni."""

from __future__ import annotations
