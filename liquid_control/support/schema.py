"""Content from files is what it must be, or one error: values are checked against the types that they shall have."""

from __future__ import annotations

import math
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from liquid_control.support.errors import UserError

LONGEST = 200
"""Characters of what was given, or of another library's words, in an error of ours."""


def shortened(given: object) -> str:
    """Text of anything in one line, cut where it becomes long."""
    text = " ".join(str(given).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def validated(wanted: Any, value: Any, what: str) -> Any:
    """The value as an instance of the type ``wanted``.

    A list stands for a tuple, a text for a path, a whole number for a float, and a text of digits for a number, as YAML
    reads 1e-4. Bounds in the type are held, and fields that a dataclass does not have are refused.

    Args:
        wanted: a type, as fields of a config have it.
        value: of JSON or YAML.
        what: what the value is, to begin the error with.

    Raises:
        UserError: if it is none; names the first place that does not fit, and why.
    """
    try:
        return _adapter(wanted).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int | str))[:60]
        given = shortened(repr(first["input"]))[:80]
        raise UserError(f"{what} is wrong{f' at {place}' if place else ''}: {first['msg']}, not {given}.") from None
    except RecursionError:
        raise UserError(f"{what} is nested too deep.") from None


def _adapter(wanted: Any) -> TypeAdapter[Any]:
    if isinstance(wanted, type) and hasattr(wanted, "__dataclass_fields__"):
        # A dataclass of the standard library takes no config from outside.
        wanted.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return TypeAdapter(wanted)


def check_plain(value: Any, what: str, depth: int = 32) -> None:
    """Looks whether a value of JSON is plain: finite numbers, printable texts, not nested deeper than ``depth``.

    Raises:
        UserError: if it is not.
    """
    if depth == 0:
        raise UserError(f"{what} is nested too deep.")
    match value:
        case float() if not math.isfinite(value):
            raise UserError(f"{what} holds {value}, which is no number to compute with.")
        case str() if not value.replace("\n", "").isprintable() or len(value) > 10_000:
            raise UserError(f"{what} holds a text that cannot be shown: {shortened(repr(value))[:80]}.")
        case dict():
            for key, inside in value.items():
                check_plain(key, what, depth - 1)
                check_plain(inside, what, depth - 1)
        case list():
            for inside in value:
                check_plain(inside, what, depth - 1)


LARGEST = {"ode_unfolds": 1000, "window": 10_000, "frames": 1000}
"""The most that a file may ask of what takes time without taking memory; of other whole numbers :data:`SIZE`."""
SIZE = 8192
"""Neurons, inputs and the like at most, of what is built because a file says so."""


def check_sizes(config: Any, what: str, name: str = "") -> None:
    """Looks at the whole numbers of a JSON config: what is built of it shall be small, seeds may be anything.

    Raises:
        UserError: if one is too large; names it.
    """
    match config:
        case int() if "seed" not in name and not -SIZE <= config <= LARGEST.get(name, SIZE):
            raise UserError(
                f"{what} asks for {name or 'a number'} {shortened(config)}; {LARGEST.get(name, SIZE)} is most."
            )
        case dict():
            for key, value in config.items():
                check_sizes(value, what, str(key))
        case list():
            for value in config:
                check_sizes(value, what, name)
