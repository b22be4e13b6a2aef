"""Addresses as options give them: ``HOST:PORT``, ``unix:PATH``, and ``dns:NAME:PORT`` for all of a name's addresses.

Where clients connect to, ``HOST:FIRST-LAST`` stands for several ports: those of a service of several processes.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager

_UNIX, _DNS = "unix:", "dns:"
MAX_PORT = 65535


def host_and_port(address: str, *, lowest_port: int = 1) -> tuple[str, int]:
    """The two parts of ``HOST:PORT``. An IPv6 address stands in brackets there, and without them in the result.

    Raises ValueError for anything else.
    """
    host, _, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if is_bracketed else host
    if not bare or (":" in bare) != is_bracketed or not (port.isascii() and port.isdigit()):
        raise ValueError(f"expected HOST:PORT, found {address!r}")
    if not lowest_port <= int(port) <= MAX_PORT:
        raise ValueError(f"expected a port from {lowest_port} to {MAX_PORT}, found {address!r}")
    return bare, int(port)


def name_and_port(target: str) -> tuple[str, int] | None:
    """Host and port of ``dns:NAME:PORT``; None without that prefix. Raises ValueError for ``dns:`` and no port."""
    return host_and_port(target.removeprefix(_DNS).strip("/")) if target.startswith(_DNS) else None


def check_listen(address: str) -> None:
    """Raises ValueError unless servers can listen there: ``HOST:PORT`` (0 takes a free port) or ``unix:PATH``."""
    if address == _UNIX:
        raise ValueError(f"expected unix:PATH, found {address!r}")
    if not address.startswith(_UNIX):
        host_and_port(address, lowest_port=0)


def check_target(address: str) -> None:
    """Raises ValueError unless clients can connect to ``address``: ``unix:PATH``, or ``HOST:PORT`` or
    ``HOST:FIRST-LAST``, also after ``dns:``."""
    for target in each_port(address):
        if target.startswith(_UNIX):
            check_listen(target)
        elif name_and_port(target) is None:
            host_and_port(target)


def each_port(target: str) -> list[str]:
    """``HOST:FIRST-LAST`` as a target for each port from FIRST to LAST; any other target by itself.

    Raises ValueError for a range that is none.
    """
    host, _, ports = target.rpartition(":")
    first, dash, last = ports.partition("-")
    if not dash or target.startswith(_UNIX):
        return [target]
    is_range = all(port.isascii() and port.isdigit() and int(port) <= MAX_PORT for port in (first, last))
    if not is_range or int(first) > int(last):
        raise ValueError(f"expected HOST:PORT or HOST:FIRST-LAST, found {target!r}")
    return [f"{host}:{port}" for port in range(int(first), int(last) + 1)]


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``address``. The only name that counts as such is ``localhost``."""
    if address.startswith(_UNIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_guarded(name: str, address: str, *, is_guarded: bool, guards: str) -> None:
    """Raises ValueError, saying which ``guards`` there are, for an address without one that others can reach."""
    if not is_guarded and not is_loopback(address):
        raise ValueError(f"{name} {address}: expected a loopback address, or {guards}")


def check_metrics_listen(address: str, *, is_insecure: bool, has_tls: bool | None = None) -> None:
    """Raises ValueError unless metrics can be served there: ``HOST:PORT``, of which others may know if ``is_insecure``.
    ``has_tls`` is None where there is no TLS to be had."""
    with named("--metrics-listen"):
        host_and_port(address, lowest_port=0)
    tls = "" if has_tls is None else "--tls-cert and --tls-key, or "
    guards = f"{tls}--metrics-insecure to show metrics to whoever can connect"
    check_guarded("--metrics-listen", address, is_guarded=bool(has_tls) or is_insecure, guards=guards)


@contextmanager
def named(option: str) -> Iterator[None]:
    """Prefixes ValueErrors raised inside with the name of the option that holds the address."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
