"""The exceptions that a command turns into a line of text instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that was given cannot be used; the message says what was given and what to do."""

    status = 2
    """Exit status of a command that ends by it."""


class DivergedError(UserError):
    """A training came to NaN or infinity; going on from what was saved would repeat it."""

    status = 3

    def __init__(self, where: str):
        super().__init__(
            f"the training has diverged: {where} holds NaN or infinity. Begin again with a lower learning rate; what "
            "was saved before is kept."
        )


class LostRunError(UserError):
    """What a run would go on from is lost: the same command again would not go on either."""


def check_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Compares names with those that there are.

    Args:
        what: they are names of, for the message: an arm, a task.
        given: names.
        known: names that there are.

    Raises:
        UserError: if one of them is not there; the nearest is named.
    """
    for name in given:
        if name not in known:
            raise UserError(f"no {what} {name!r}: {nearest(name, known)}")


def nearest(given: str, known: Iterable[str]) -> str:
    """A hint that names the known word closest to ``given`` and lists them all, to end an error message with."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
