"""Bounds in the types of a config's fields are compared, also of optional values and of a tuple's items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Lt

from liquid_control.support.errors import UserError
from liquid_control.support.ranges import Count, Positive, Share, check_ranges


@dataclass
class Config:
    steps: Count = 1
    speeds: tuple[Positive, Positive] = (1.0, 2.0)
    action_repeat: Count | None = None
    share: Share = 1.0
    drop_frames: Annotated[float, Ge(0), Lt(1)] = 0.0
    agent: Literal["dagger", "clone"] = "dagger"
    words: tuple[str, ...] = ("neurons=19",)


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
        ({"action_repeat": 0}, "--action-repeat must be at least 1, not 0."),
        ({"share": float("nan")}, "--share must be at least 0 and at most 1, not nan."),
        ({"drop_frames": 1.0}, "--drop-frames must be at least 0 and below 1, not 1.0."),
    ],
)
def test_what_is_outside_is_named_with_its_range(outside, message):
    with pytest.raises(UserError) as error:
        check_ranges(Config(**outside))
    assert str(error.value) == message
