"""Numbers with a range, as the types of a config's fields: ``steps: Count = 100``.

The bounds are those of the package annotated-types, so any other can be written beside these:
``port: Annotated[int, Ge(0), Le(65535)]``. `liquid_control.support.command.parse` checks them for every command.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from liquid_control.support.errors import UserError

Count = Annotated[int, Ge(1), Le(10**9)]
CountOrZero = Annotated[int, Ge(0), Le(10**9)]
Size = Annotated[int, Ge(1), Le(65_536)]
"""How many there are in memory at once: rows of a batch, environments, steps of a stretch."""
Processes = Annotated[int, Ge(0), Le(1024)]
"""Processes or threads; 0 often stands for one a processor."""
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
"""Of any generator of random numbers; NumPy's old one knows no larger."""
Port = Annotated[int, Ge(0), Le(65535)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0), Le(1e6)]
"""A weight or a rate. Far above, products are beyond float32."""
Gain = Annotated[float, Gt(0), Le(1e6)]
"""A weight or a rate of which there has to be some."""
Speed = Annotated[float, Gt(0), Le(100)]
"""Miles an hour; the simulator's car goes 30."""
Share = Annotated[float, Ge(0), Le(1)]
Severity = Annotated[int, Ge(1), Le(5)]
"""Of a distribution shift."""
Finite = Annotated[float, Gt(float("-inf")), Lt(float("inf"))]
LogSpread = Annotated[float, Ge(-20), Le(2)]
"""Logarithm of a standard deviation, within the bounds of Haarnoja et al. (2018)."""


def check_ranges(config: Any) -> None:
    """Compares every number of a config dataclass with the bounds in its field's type. NaN is within none.

    Raises:
        UserError: if one is outside; names the option, its range and what was given.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        for bounds, value in _bounded(hint, getattr(config, name)):
            if complaint := _complaint(bounds, value):
                raise UserError(f"--{name.replace('_', '-')} {complaint}.")


def argument(hint: Any) -> Callable[[str], Any]:
    """Reads a number with a range for the standard library's parser: ``type=argument(Count)``.

    What it returns raises ArgumentTypeError or ValueError, which that parser turns into a line.
    """
    kind, *bounds = get_args(hint)

    def read(word: str) -> Any:
        value = kind(word)
        if complaint := _complaint(bounds, value):
            raise ArgumentTypeError(complaint)
        return value

    read.__name__ = kind.__name__  # what the parser calls it where it is no number at all
    return read


def _bounded(hint: Any, value: Any) -> Iterator[tuple[list[Any], Any]]:
    """The bounds of a value and the value; of a tuple, those of its items; an optional one has them if it is there."""
    if get_origin(hint) is Annotated:
        bounds = [bound for bound in hint.__metadata__ if isinstance(bound, Ge | Gt | Le | Lt | MinLen)]
        if bounds and value is not None:
            yield bounds, value
        yield from _bounded(get_args(hint)[0], value)
    elif get_origin(hint) is tuple:
        items = get_args(hint)
        items = items[:1] * len(value) if items[-1] is ... else items
        for item, part in zip(items, value, strict=False):
            yield from _bounded(item, part)
    else:
        for choice in get_args(hint):
            yield from _bounded(choice, value)


def _complaint(bounds: list[Any], value: Any) -> str:
    """What a value must be that is not; empty if it is. A bound far away is named where it is passed only."""
    if all(_compare(bound, value)[1] for bound in bounds):
        return ""
    limits: list[Any] = [bound.le for bound in bounds if isinstance(bound, Le)]
    far = [Le(limit) for limit in limits if limit >= 10**6 and not value > limit]
    wanted = [_compare(bound, value)[0] for bound in bounds if bound not in far]
    return f"must be {' and '.join(wanted)}, not {value}"


def _compare(bound: Ge | Gt | Le | Lt | MinLen, value: Any) -> tuple[str, bool]:
    """A bound in words, and whether the value is within it."""
    match bound:
        case Ge(least):
            return f"at least {least}", value >= least
        case Gt(below):
            return f"above {below}", value > below
        case Le(most):
            return f"at most {most}", value <= most
        case Lt(above):
            return f"below {above}", value < above
        case MinLen(fewest):
            return f"{fewest} or more values", len(value) >= fewest
