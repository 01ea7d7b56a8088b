"""A real udevd that renames the VF's devices; the guest is booted with UDEV=1."""

from __future__ import annotations
