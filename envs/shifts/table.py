"""All shifts by name, how they are written, and how they are applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import numpy as np

from envs.shifts.attack import ATTACK, Attack, Attacker
from envs.shifts.base import (
    CAR_RACING,
    SEVERITIES,
    UDACITY,
    PictureShift,
    Pose,
    ShiftedPictures,
    ShiftWrapper,
    environment_of,
    own_generator,
    scene_of,
)
from envs.shifts.body import BODY
from envs.shifts.camera import CAMERA
from envs.shifts.published import PUBLISHED
from envs.shifts.sensors import SENSORS
from envs.shifts.timing import TIME
from envs.shifts.weather import WEATHER
from liquid_control.support.errors import UserError, nearest

CLEAN = "clean"
"""How no shift is written."""

FAMILIES: dict[str, tuple[type[PictureShift] | type[ShiftWrapper], ...]] = {
    "published": PUBLISHED,
    "camera": CAMERA,
    "weather": WEATHER,
    "body": BODY,
    "time": TIME,
    "sensors": SENSORS,
    "attack": ATTACK,
}
"""The shifts, by what changes."""


class Shift(NamedTuple):
    """A shift as it is written: ``rain:3``."""

    name: str
    severity: int

    def __str__(self) -> str:
        return f"{self.name}:{self.severity}"


@dataclass(frozen=True)
class ShiftInfo:
    """What is known of a shift."""

    family: str
    """A key of :data:`FAMILIES`."""
    line: str
    """What it does, in one line."""
    environments: tuple[str, ...]
    """``"CarRacing"``, ``"Udacity"``."""
    touches_gauges: bool
    """Whether it changes CarRacing's gauges, rows 84–95."""
    shift: type[PictureShift] | type[ShiftWrapper]
    """A function of pictures, or a wrapper."""

    def wrap(self, env: gymnasium.Env, severity: int, attacker: Attacker | None = None) -> gymnasium.Env:
        """The environment under this shift.

        Raises:
            UserError: if the shift is not for this environment, or needs an attacker and there is none.
        """
        if environment_of(env) not in self.environments:
            shown = env.spec.id if env.spec else type(env.unwrapped).__name__
            raise UserError(f"the shift {self.shift.name!r} is for {' and '.join(self.environments)}, not for {shown}.")
        if issubclass(self.shift, PictureShift):
            return ShiftedPictures(env, self.shift, severity)
        if issubclass(self.shift, Attack):
            if attacker is None:
                raise UserError(
                    f"the shift {self.shift.name!r} attacks whoever drives: apply_shifts needs to know, for example by "
                    "policies.attack.SteeringAttack(driver)."
                )
            return self.shift(env, severity, attacker)
        return self.shift(env, severity)


SHIFTS: dict[str, ShiftInfo] = {
    shift.name: ShiftInfo(family, (shift.__doc__ or "").split("\n")[0], shift.environments, shift.touches_gauges, shift)
    for family, shifts in FAMILIES.items()
    for shift in shifts
}
"""What there is, by name."""


def parse_shifts(text: str) -> tuple[Shift, ...]:
    """Reads shifts as they are written: ``rain:3``, ``rain:3+delay:2``; ``clean`` and nothing are no shift.

    Raises:
        UserError: if a name or a severity is unknown.
    """
    if text.strip() in ("", CLEAN):
        return ()
    return tuple(_parse(part.strip()) for part in text.split("+"))


def _parse(part: str) -> Shift:
    name, colon, severity = part.partition(":")
    if name not in SHIFTS:
        raise UserError(f"unknown shift {name!r}. {nearest(name, SHIFTS)}")
    if not colon:
        raise UserError(f"the shift {name!r} has no severity: write {name}:1 to {name}:{SEVERITIES[-1]}.")
    if severity not in map(str, SEVERITIES):
        raise UserError(f"the severity of {part!r} is {severity!r}, but must be 1, 2, 3, 4 or 5: write {name}:3.")
    return Shift(name, int(severity))


def apply_shifts(env: gymnasium.Env, text: str, attacker: Attacker | None = None) -> gymnasium.Env:
    """Wraps an environment in shifts, in the order written: the first changes a picture first.

    Args:
        env: CarRacing, official or fast, the Udacity stand-in or the live simulator.
        text: see :func:`parse_shifts`.
        attacker: who knows the driver, such as a `policies.attack.SteeringAttack`; only attacks need one.

    Raises:
        UserError: if a name or a severity is unknown, a shift is not for this environment, or an
            attack has no attacker.

    Example:
        >>> env = apply_shifts(gymnasium.make("envs:liquid_control/FastCarRacing-v3"), "gaussian:3+dark:2")
        >>> env.reset(seed=0)[0].shape
        (96, 96, 3)
    """
    for name, severity in parse_shifts(text):
        env = SHIFTS[name].wrap(env, severity, attacker)
    return env


class PictureShifts:
    """Shifts of a sequence of pictures, for recordings.

    Args:
        text: see :func:`parse_shifts`.

    Raises:
        UserError: if a name or a severity is unknown, or a shift is no function of pictures.

    Example:
        >>> shifts = PictureShifts("defocus:2+gaussian:3")
        >>> shifts.begin(seed=0)
        >>> shifts(np.zeros((160, 320, 3), np.uint8)).shape
        (160, 320, 3)
    """

    def __init__(self, text: str):
        self._shifts: list[PictureShift] = []
        for name, severity in parse_shifts(text):
            kind = SHIFTS[name].shift
            if not issubclass(kind, PictureShift):
                raise UserError(f"the shift {name!r} acts on an environment: pictures alone cannot have it.")
            self._shifts.append(kind(severity))
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Begins a sequence; ``seed`` settles what the shifts draw."""
        self._seed = seed
        self._shape: tuple[int, ...] = ()

    def __call__(self, picture: np.ndarray, pose: Pose | None = None) -> np.ndarray:
        """The next picture, as it is seen: a new array.

        Args:
            picture: (96, 96, 3) or (160, 320, 3) uint8, of the same shape in the whole sequence.
            pose: where the car is; None where that is not known, as in recordings: then the world stands still.

        Raises:
            UserError: if no environment shows pictures of such a shape or type, or a shift is not for what does.
        """
        if picture.dtype != np.uint8:
            raise UserError(f"a picture is {picture.dtype}, but must be uint8.")
        if picture.shape != self._shape:
            scene, self._shape = scene_of(picture.shape), picture.shape
            shown = CAR_RACING if scene.kind == "above" else UDACITY
            for shift in self._shifts:
                if shown not in shift.environments:
                    raise UserError(f"the shift {shift.name!r} is for {shift.environments[0]}, not for {shown}.")
                shift.begin(own_generator(self._seed, shift.name, shift.severity), scene)
        picture = picture.copy()
        for shift in self._shifts:
            picture = shift(picture, pose)
        return picture


def shift_picture(text: str, picture: np.ndarray, seed: int = 0, frame: int = 0) -> np.ndarray:
    """One picture, as it is seen under shifts.

    Args:
        text: see :func:`parse_shifts`.
        picture: (96, 96, 3) or (160, 320, 3) uint8.
        seed: of what the shifts draw.
        frame: which picture of a sequence it is; those before are gone through. Sequences go faster with
            :class:`PictureShifts`.

    Raises:
        UserError: as :class:`PictureShifts`.
    """
    shifts = PictureShifts(text)
    shifts.begin(seed)
    for _ in range(frame):
        shifts(picture)
    return shifts(picture)
