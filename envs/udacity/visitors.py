"""Who may talk to a server on this computer: not every web page that a browser has open.

A page can make a browser connect to any address, this computer's too. The browser then says where the page is from
(``Origin``), and under which name it looked the address up (``Host``). A stranger's page can make its own name point
here; then only the name gives it away. The simulator and the programs that speak Socket.IO name the address that they
connect to, and have no origin, or their own.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from websockets.http11 import Request


def is_loopback(host: str) -> bool:
    """Whether an address, or ``localhost``, means this computer alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def asks_for(request: Request, host: str, port: int) -> str | None:
    """What a request calls the server on ``host`` and ``port``; None if that is a stranger's name, or two names."""
    names = request.headers.get_all("Host")
    return names[0] if len(names) == 1 and _is_own(names[0], host, port) else None


def is_foreign(request: Request, name: str) -> bool:
    """Whether a request comes from a web page other than those of the server that it calls ``name``."""
    origins = request.headers.get_all("Origin")
    return bool(origins) and origins != [f"http://{name}"]


def _is_own(name: str, host: str, port: int) -> bool:
    try:
        parts = urlsplit(f"//{name}")
        called, at = parts.hostname or "", parts.port or 80
    except ValueError:
        return False
    open_to_all = _is_address(host) and ipaddress.ip_address(host).is_unspecified
    return (is_loopback(called) or called == host.lower() or (open_to_all and _is_address(called))) and at == port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
