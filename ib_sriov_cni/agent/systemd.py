"""Talking to systemd: ready, alive, stopping. Source: man 3 sd_notify, the protocol's section."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Systemd:
    """The service manager that started us; without one every word goes nowhere."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """NOTIFY_SOCKET says where to speak, WATCHDOG_USEC how often it wants to hear."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        pid = environ.get("WATCHDOG_PID", "")
        usec = environ.get("WATCHDOG_USEC", "")
        ours = pid in ("", str(os.getpid()))
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and ours and self._address else 0.0

    def tell(self, **words: object) -> None:
        """Send words like READY=1; a manager that does not listen is no fault."""
        if self._address[:1] not in {"/", "@"}:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        text = "\n".join([f"{name}={word}" for name, word in words.items()])
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
                notifier.connect(address)
                notifier.send(text.encode())
        except OSError:
            pass
