"""The command line on a node with living, dead and damaged attachments."""

from __future__ import annotations
