"""Who listens on a port of this machine."""

import contextlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PortHolder:
    """A program that listens; pid 0 when this user may not know."""

    pid: int = 0
    name: str = ""


def port_holder(port: int) -> PortHolder:
    """Find who listens on a port, as far as this user may know."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for each in psutil.net_connections(kind="tcp"):
            if each.status == psutil.CONN_LISTEN and getattr(each.laddr, "port", 0) == port and each.pid:
                return PortHolder(pid=each.pid, name=psutil.Process(each.pid).name())
    return PortHolder()
