"""A driver that a training begins with instead of nothing."""

from __future__ import annotations

from pathlib import Path

from liquid_control.support.errors import UserError
from policies.driver import DriverConfig


def check_initial(folder: Path, driver: DriverConfig, env: str, policy: str) -> None:
    """Refuses a driver of another environment or another core than the job's.

    Raises:
        UserError: if it is one; names its checkpoint.
    """
    if driver.env != env:
        raise UserError(f"{folder} drives {driver.env}, not {env}.")
    if driver.policy != policy:
        raise UserError(f"{folder} has the core {driver.policy}, not {policy}: give --policy {driver.policy}.")
