"""The story of an attachment: ADD, CHECK and DEL, in steps. docs/architecture.md follows one ADD through them."""

from __future__ import annotations
