"""Tiny liquid networks that drive, and the measure of what they can do.

>>> import liquid_control
>>> driver = liquid_control.load_driver("checkpoints/CarRacing-v3/cfc")
>>> driver.core.neuron_count
19
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liquid_control.support import starting

if TYPE_CHECKING:
    from policies.driver import load_driver

starting.begin()

__version__ = "0.1.0"
__all__ = ["__version__", "load_driver"]


def __getattr__(name: str) -> Any:
    # Looked up when it is used: the layers below import this package, and must not import the drivers with it.
    if name == "load_driver":
        starting.check_rooms()
        from policies.driver import load_driver

        return load_driver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
