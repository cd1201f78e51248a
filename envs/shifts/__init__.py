"""Distribution shifts: the same tracks and physics seen worse, driven otherwise or later, each with a severity."""

from envs.shifts.attack import Attacker
from envs.shifts.base import Pose
from envs.shifts.table import (
    FAMILIES,
    SHIFTS,
    PictureShifts,
    Shift,
    ShiftInfo,
    apply_shifts,
    parse_shifts,
    shift_picture,
)

__all__ = [
    "FAMILIES",
    "SHIFTS",
    "Attacker",
    "PictureShifts",
    "Pose",
    "Shift",
    "ShiftInfo",
    "apply_shifts",
    "parse_shifts",
    "shift_picture",
]
