"""Whether anything answers at an address, before a library waits for it for minutes."""

from __future__ import annotations

import os
import socket

from liquid_control.support.errors import UserError

PATIENCE = 3.0
"""Seconds that a machine has to answer."""


def check_ray(address: str) -> None:
    """Looks whether a machine answers where a Ray cluster is said to be.

    Args:
        address: ``host:port`` or ``ray://host:port``; what else Ray takes, such as ``auto``, is for Ray to look for.

    Raises:
        UserError: if nothing answers there.
    """
    if address == "auto":  # which is this variable's, where it is set
        address = os.environ.get("RAY_ADDRESS", address)
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"no Ray at {address}: {reason}. Begin one there with ray start --head, or give the address that it told."
        ) from None
