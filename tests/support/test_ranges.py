"""Bounds in the types of a config's fields are compared, also of optional values and of a tuple's items."""

from __future__ import annotations

import importlib
import pkgutil
from argparse import ArgumentTypeError
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Gt, Le, Lt

import agents
from liquid_control.__main__ import COMMANDS
from liquid_control.support.errors import UserError
from liquid_control.support.ranges import Count, Positive, Share, argument, check_ranges


@dataclass
class Config:
    steps: Count = 1
    speeds: tuple[Positive, Positive] = (1.0, 2.0)
    action_repeat: Count | None = None
    share: Share = 1.0
    drop_frames: Annotated[float, Ge(0), Lt(1)] = 0.0
    agent: Literal["dagger", "clone"] = "dagger"
    words: tuple[str, ...] = ("neurons=19",)
    lengths: tuple[Count, ...] = (1,)


@pytest.mark.parametrize(
    "inside",
    [{}, {"speeds": (float("inf"), 1e-9)}, {"action_repeat": 4}, {"share": 0}, {"drop_frames": 0.999}],
)
def test_what_is_within_its_bounds_passes(inside):
    check_ranges(Config(**inside))


@pytest.mark.parametrize(
    ("outside", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, not 0."),
        ({"speeds": (1.0, -2.0)}, "--speeds must be above 0, not -2.0."),
        ({"lengths": (3, 0)}, "--lengths must be at least 1, not 0."),
        ({"action_repeat": 0}, "--action-repeat must be at least 1, not 0."),
        ({"share": float("nan")}, "--share must be at least 0 and at most 1, not nan."),
        ({"drop_frames": 1.0}, "--drop-frames must be at least 0 and below 1, not 1.0."),
    ],
)
def test_what_is_outside_is_named_with_its_range(outside, message):
    with pytest.raises(UserError) as error:
        check_ranges(Config(**outside))
    assert str(error.value) == message


def configs():
    """The dataclasses that the commands parse, their own and those of the agents."""
    names = [f"liquid_control.{name}" for name in COMMANDS]
    names += [f"agents.{module.name}" for module in pkgutil.iter_modules(agents.__path__)]
    found = {
        value
        for module in map(importlib.import_module, names)
        for name, value in vars(module).items()
        if name.endswith("Config") and is_dataclass(value) and value.__module__ in names
    }
    inside = {"TaskConfig"}  # what PPO builds for its environments from its own, checked config
    return sorted((each for each in found if each.__name__ not in inside), key=lambda each: each.__name__)


def is_unbounded(hint):
    """Whether a number, or one inside an optional or a tuple, is without bounds."""
    if get_origin(hint) is Annotated:
        number, *bounds = get_args(hint)
        return is_unbounded(number) and not any(isinstance(bound, Ge | Gt | Le | Lt) for bound in bounds)
    return hint in (int, float) or any(is_unbounded(part) for part in get_args(hint))


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.__name__)
def test_every_number_of_a_command_has_its_range(config):
    hints: dict[str, Any] = get_type_hints(config, include_extras=True)
    assert [name for name, hint in hints.items() if is_unbounded(hint)] == []


def unlimited(hint):
    """The whole numbers of a type that may be as large as they like."""
    if get_origin(hint) is Annotated:
        number, *bounds = get_args(hint)
        return number is int and not any(isinstance(bound, Le | Lt) for bound in bounds)
    return any(unlimited(part) for part in get_args(hint))


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.__name__)
def test_no_whole_number_of_a_command_is_without_an_end(config):
    """A float may be infinite, as the seconds of a drive; what is counted takes memory or never ends."""
    hints: dict[str, Any] = get_type_hints(config, include_extras=True)
    assert [name for name, hint in hints.items() if unlimited(hint)] == []


def test_a_number_for_the_parser_of_the_standard_library_has_its_range():
    assert argument(Count)("3") == 3
    assert argument(Share)("0.5") == 0.5
    with pytest.raises(ArgumentTypeError, match="must be at least 1, not 0"):
        argument(Count)("0")
    with pytest.raises(ArgumentTypeError, match="must be at least 1 and at most 1000000000, not 1000000001"):
        argument(Count)("1000000001")
    with pytest.raises(ArgumentTypeError, match="must be above 0, not nan"):
        argument(Positive)("nan")


def test_the_configs_of_all_commands_are_looked_at():
    assert {"TrainConfig", "RoadConfig", "PPOConfig", "TuneConfig", "DiagramConfig"} <= {c.__name__ for c in configs()}
    assert len(configs()) >= len(COMMANDS)


@pytest.mark.parametrize("option", ["log_std", "final_log_std", "stop_at"])
def test_a_spread_or_a_goal_that_is_no_number_is_refused(option):
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} must be .*, not nan"):
        check_ranges(agents.ppo.PPOConfig(**{option: float("nan")}))


def test_pictures_are_moved_aside_by_a_share_of_their_width():
    with pytest.raises(UserError, match=r"--shift must be at least 0 and at most 1, not -0\.1"):
        check_ranges(agents.road_dagger.RoadConfig(shift=-0.1))
