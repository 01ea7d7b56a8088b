"""Notifications to systemd: ready, alive, stopping. Source: sd_notify(3), section Notes (the protocol)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Systemd:
    """The service manager that started the agent. Without one, notifications are dropped."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; `watchdog_seconds` is 0 without a watchdog."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        pid = environ.get("WATCHDOG_PID", "")
        usec = environ.get("WATCHDOG_USEC", "")
        is_for_us = pid in ("", str(os.getpid()))
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and is_for_us and self._address else 0.0

    def notify(self, **fields: object) -> None:
        """Send fields such as READY=1. Failing to send is not an error."""
        if self._address[:1] not in {"/", "@"}:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "\n".join([f"{name}={field}" for name, field in fields.items()])
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
                notifier.connect(address)
                notifier.send(text.encode())
        except OSError:
            pass
