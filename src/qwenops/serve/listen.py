"""The listening socket, opened before anything else, so that a taken port is known at once and by name."""

import errno
import socket

from qwenops.errors import ConfigError
from qwenops.hardware.ports import port_holder
from qwenops.text import say

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        ConfigError: The port is taken (by whom, is said where that can be known) or not allowed, or there is no such
            address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise _no_address(host, error.strerror or str(error)) from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.settimeout(0)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                say("Port {port} on {host} is taken by {who}.", port=port, host=host, who=who_listens(port)),
                hint=say("Stop it (`qwenops ps` lists servers), or take another port with --port."),
            ) from None
        if error.errno == errno.EACCES:
            raise ConfigError(
                say("This user may not listen on port {port}.", port=port),
                hint=say("Use a port from 1024 on, and a balancer in front of it."),
            ) from None
        raise _no_address(host, error.strerror or str(error)) from None
    return listener


def who_listens(port: int) -> str:
    """Say which program listens on a port, as far as this user may know."""
    holder = port_holder(port)
    return say("{name} (pid {pid})", name=holder.name, pid=holder.pid) if holder.pid else say("another program")


def url_of(listener: socket.socket) -> str:
    """Return the URL under which this machine reaches a listener."""
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 -- compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104 -- compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _no_address(host: str, why: str) -> ConfigError:
    return ConfigError(
        say("It is not possible to listen on {host!r}: {why}.", host=host, why=why),
        hint=say("Use an address of this machine, such as 127.0.0.1 or 0.0.0.0."),
    )
