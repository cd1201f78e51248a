"""What a search may choose: words such as ``learning_rate=1e-4..1e-3:log`` or ``policy=cfc,ltc``, checked."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from agents.ppo import PPOConfig
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.ranges import check_ranges
from policies.registry import CORES

if TYPE_CHECKING:
    from optuna import Trial

#: The same in all trials: they say what is measured and where it runs, not how a driver learns.
SETTLED = frozenset(
    "env agent run resume seed workers threads device validation_episodes validate_every validation_env stop_at "
    "test_episodes video".split()
)


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both of them included."""

    low: float
    high: float
    log: bool
    """Whether the logarithm is what is spread evenly."""

    def suggest(self, trial: Trial, name: str) -> None:
        """Lets the sampler choose."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            trial.suggest_int(name, self.low, self.high, log=self.log)
        else:
            trial.suggest_float(name, self.low, self.high, log=self.log)

    def value(self, chosen: Any) -> Any:
        """The option's value for what the sampler chose."""
        return chosen


@dataclass(frozen=True)
class Choices:
    """One of several values, each known to the study by the text that stands for it."""

    values: Mapping[str, Any]

    def suggest(self, trial: Trial, name: str) -> None:
        """Lets the sampler choose."""
        trial.suggest_categorical(name, list(self.values))

    def value(self, chosen: Any) -> Any:
        """The option's value for what the sampler chose."""
        return self.values[chosen]


Space = Mapping[str, Range | Choices]


def read_space(words: Sequence[str]) -> Space:
    """Reads ``name=low..high``, ``name=low..high:log`` and ``name=value,value`` words about options of a PPO training.

    Several words of ``policy_options`` are joined by a plus: ``policy_options=neurons=13,neurons=19+mode=pure``.

    Raises:
        UserError: if a word is none of these, its option is not one that can be searched, or a value does not fit it.
    """
    if not words:
        raise UserError("there is nothing to search. Example: --search learning_rate=1e-4..1e-3:log policy=cfc,ltc")
    hints = get_type_hints(PPOConfig)
    names = [field.name for field in dataclasses.fields(PPOConfig) if field.name not in SETTLED]
    space: dict[str, Range | Choices] = {}
    for word in words:
        given, equals, text = word.partition("=")
        name = given.replace("-", "_")
        if not equals or not text:
            raise UserError(f"--search takes name=low..high, name=low..high:log or name=value,value, not {word!r}.")
        if name in SETTLED:
            raise UserError(f"{name!r} is the same in all trials: set it in the --base, not in --search.")
        if name not in names:
            raise UserError(f"there is no option {given!r} to search: {nearest(name, names)}")
        if name in space:
            raise UserError(f"--search has {name!r} twice.")
        options = _range(word, text, hints[name]) if ".." in text else _choices(word, name, text, hints[name])
        _check_bounds(word, name, options)
        space[name] = options
    return space


def _check_bounds(word: str, name: str, options: Range | Choices) -> None:
    """Compares each choice, or both ends of a range, with what the option may be."""
    values: Iterable[Any] = (options.low, options.high) if isinstance(options, Range) else options.values.values()
    for value in values:
        try:
            check_ranges(dataclasses.replace(PPOConfig(), **{name: value}))
        except UserError as error:
            raise UserError(f"{word!r}: {error}") from None


def _range(word: str, text: str, hint: Any) -> Range:
    kinds = [kind for kind in (int, float) if hint is kind or kind in get_args(hint)]
    if not kinds:
        raise UserError(f"{word!r}: this option is no number, so name its values: name=value,value.")
    bounds, log = text.removesuffix(":log"), text.endswith(":log")
    try:
        low, high = (kinds[0](bound) for bound in bounds.split("..", 1))
    except ValueError:
        raise UserError(f"{word!r}: a range is low..high or low..high:log, of {kinds[0].__name__} numbers.") from None
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{word!r}: a range has a finite low end below a finite high end.")
    if log and low <= 0:
        raise UserError(f"{word!r}: a logarithmic range begins above zero.")
    return Range(low, high, log)


def _choices(word: str, name: str, text: str, hint: Any) -> Choices:
    values = {}
    for choice in text.split(","):
        try:
            values[choice] = _read(choice, hint)
        except ValueError as error:
            raise UserError(f"{word!r}: {choice!r} is no value of {name} ({error}).") from None
        if name == "policy" and choice not in CORES:
            raise UserError(f"{word!r}: unknown policy {choice!r}: {nearest(choice, CORES)}")
    return Choices(values)


def _read(text: str, hint: Any) -> Any:
    """The text as a value of the type that a field of the config has."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text == "None":
            return None
        (hint,) = (kind for kind in inside if kind is not type(None))
        return _read(text, hint)
    if origin is Literal:
        if text not in inside:
            raise ValueError(nearest(text, inside).rstrip("."))
        return text
    if hint is bool:
        if text not in ("True", "False"):
            raise ValueError("True or False")
        return text == "True"
    if hint == tuple[str, ...]:
        return tuple(text.split("+"))
    if hint in (int, float, str):
        value = hint(text)
        if hint is float and not math.isfinite(value):
            raise ValueError("a finite number")
        return value
    raise ValueError("it cannot be searched")
