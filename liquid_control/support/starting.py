"""What a command does before anything heavy is imported: it can be stopped quietly, and its packages are its own."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import signal
import sys
from pathlib import Path

ROOMS = ("envs", "agents", "policies")
"""Packages beside `liquid_control` whose names a user's own files may have too."""
SPINS = "1000"
"""How often a thread of torch looks for the others before it sleeps; OpenMP reads it when torch is loaded.

Threads meet after each of the many small tensors of a training. By default they look for milliseconds, and where
another program has their processor, all wait for all: a gradient step then takes five times as long.
"""
_HOME = Path(__file__).resolve().parent.parent.parent


def begin() -> None:
    """Called when the package is imported; does nothing where another program imports it."""
    if is_command():
        hold_collector()
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is of what a script starts in the background
            signal.signal(signal.SIGINT, stop)
        if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
            os.environ["GOMP_SPINCOUNT"] = SPINS
        if hidden := hiding_files():
            print(f"error: {hidden[0]} hides a package of liquid-control. {_ADVICE}", file=sys.stderr)
            raise SystemExit(2)


def hold_collector() -> None:
    """Until :func:`release_collector`, Python looks for no garbage.

    While modules are loaded hardly anything becomes garbage, and each look goes through all that is there: a sixth of
    the seconds that torch takes.
    """
    gc.disable()


def release_collector() -> None:
    """What a command needs is loaded; the collector goes on, and never looks at what is there by now."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def is_command() -> bool:
    """Whether Python was started as ``python -m liquid_control…`` or ``liquid-control``."""
    if Path(sys.argv[0] if sys.argv else "").name == "liquid-control":
        return True
    modules = (module for word, module in itertools.pairwise(sys.orig_argv) if word == "-m")
    # While the package of a module is imported, the first argument is still the -m.
    return sys.argv[:1] == ["-m"] and next(modules, "").partition(".")[0] == "liquid_control"


def hiding_files() -> list[str]:
    """Files or folders that Python would import instead of this project's own packages."""
    hidden = []
    for name in ROOMS:
        spec = importlib.util.find_spec(name)
        places = [*([spec.origin] if spec and spec.origin else []), *((spec and spec.submodule_search_locations) or [])]
        if places and Path(places[0]).resolve() not in (_HOME / name / "__init__.py", _HOME / name):
            hidden.append(places[0])
    return hidden


_ADVICE = "Rename it, or start in another folder."


def check_rooms() -> None:
    """For programs that use the packages.

    Raises:
        ImportError: if a file hides one of them; names it.
    """
    if hidden := hiding_files():
        raise ImportError(f"{hidden[0]} hides a package of liquid-control. {_ADVICE}")


def stop(*_: object) -> None:
    """Ends the process with a word and status 130."""
    # Nothing has begun that could be lost; an exception would come out of the middle of somebody's import.
    os.write(2, b"stopped.\n")
    os._exit(130)
