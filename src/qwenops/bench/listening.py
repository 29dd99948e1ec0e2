"""The processes behind an address of this machine: who listens there, and all that they started."""

import contextlib
import ipaddress
import socket
from pathlib import Path

_FORWARDERS = frozenset({"docker-proxy", "rootlessport", "slirp4netns", "pasta", "conmon", "ssh", "kubectl"})
"""Programs that listen for a server which is elsewhere; to watch them would be to watch the wrong process."""


class Listening:
    """Who listens on a port of this machine.

    The search reads every process's descriptors, so its result is remembered until that process is gone.

    Args:
        host: Of the address; another machine has no processes here.
        port: Of the address.
        proc: Where the kernel tells about processes.
    """

    def __init__(self, host: str, port: int, *, proc: Path = Path("/proc")) -> None:
        """Remember what to look for; nothing is looked at yet."""
        self._port = port
        self._proc = proc
        self._is_here = is_loopback(host)
        self._found: dict[int, float] = {}
        """Each listening process with when it was started, because numbers are used again."""

    def process_ids(self) -> tuple[int, ...]:
        """Return the listening processes and what they started, as far as this user may know; empty elsewhere."""
        if not self._is_here:
            return ()
        if not self._found or any(_started_s(each) != began_s for each, began_s in self._found.items()):
            self._found = _listeners(self._port)
        found: dict[int, None] = {}
        for each in self._found:
            self._collect(each, found)
        return tuple(found)

    def _collect(self, process_id: int, found: dict[int, None]) -> None:
        if process_id in found:
            return
        found[process_id] = None
        with contextlib.suppress(OSError, ValueError):
            for children in (self._proc / str(process_id)).glob("task/*/children"):
                for child in children.read_text().split():
                    self._collect(int(child), found)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host == socket.gethostname()


def _listeners(port: int) -> dict[int, float]:
    """Return every process that listens on a port; none where it only passes connections on."""
    import psutil

    found: dict[int, float] = {}
    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections(kind="tcp"):
            if each.status == psutil.CONN_LISTEN and getattr(each.laddr, "port", 0) == port and each.pid:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(each.pid)
                    if process.name() not in _FORWARDERS:
                        found[each.pid] = process.create_time()
    return found


def _started_s(process_id: int) -> float | None:
    import psutil

    try:
        return psutil.Process(process_id).create_time()
    except psutil.Error:
        return None
