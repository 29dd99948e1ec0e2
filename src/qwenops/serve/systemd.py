"""Tells systemd how the server is doing (`Type=notify`); without systemd everything here does nothing.

One datagram to the socket that NOTIFY_SOCKET names; a name that begins with @ is in the abstract name space.
"""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends states to systemd."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read where to, and how often a sign of life is wanted."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = 0.0
        """A sign of life is wanted at least this often; 0 is never."""
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        with contextlib.suppress(ValueError):
            self.watchdog_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 if for_us else 0.0

    def ready(self, status: str) -> None:
        """The service is up: units that wait for it may start."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Show one line in `systemctl status`."""
        self._send(f"STATUS={status}")

    def more_time(self, seconds: float) -> None:
        """Ask for more time to start or to stop than the unit gives."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def alive(self) -> None:
        """Give the sign of life."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The service begins to end."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.settimeout(0)
            to.connect(self._address)
            to.send(message.encode())
            return
        logging.getLogger(__name__).debug("systemd could not be told: %s", message)
