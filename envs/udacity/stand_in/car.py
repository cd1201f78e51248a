"""A car with the simulator's limits: a bicycle of two wheels, 25° of steering, 30 miles an hour."""

from __future__ import annotations

import math
from dataclasses import dataclass

from envs.udacity.vehicle import MAX_ANGLE, MPH, WHEELBASE

TICK = 0.02
"""Seconds of a step of the physics."""
TOP_SPEED = 30.6 * MPH
REVERSE_SPEED, REVERSE_BELOW = -5 * MPH, 5 * MPH
GRIP = 9.0
"""Largest sideways acceleration of the tyres (m/s²)."""
GAS, BRAKE, ROLLING, GRAVITY = 4.0, 8.0, 0.25, 9.81
"""Accelerations (m/s²): of full gas at rest, of full brake, of an idle car, of a slope of one."""
ROUGH = 2.5
"""What driving off the road costs (m/s²)."""


@dataclass
class Car:
    """Where a car is and how it moves.

    The bicycle turns by ψ' = v tan(δ) / wheelbase; where that would need more than :data:`GRIP`, it turns as much as
    the tyres hold.
    """

    x: float
    """Metres east."""
    y: float
    """Metres north."""
    heading: float
    """Radians from east, anticlockwise."""
    speed: float = 0.0
    """Metres a second, negative in reverse."""
    steering: float = 0.0
    """-1 to 1, right positive."""
    throttle: float = 0.0
    """-1 to 1; below 0 the brake, and under 5 mph the reverse gear."""

    def command(self, steering: float, throttle: float) -> None:
        """Holds from now on; clipped to ±1."""
        self.steering = min(max(steering, -1.0), 1.0)
        self.throttle = min(max(throttle, -1.0), 1.0)

    def tick(self, slope: float = 0.0, off_road: bool = False) -> None:
        """One step of :data:`TICK` seconds.

        Args:
            slope: metres up a metre ahead.
            off_road: whether the ground is rough.
        """
        drag = ROLLING + (ROUGH if off_road else 0.0)
        push = -GRAVITY * slope - math.copysign(drag, self.speed) if self.speed else 0.0
        if self.speed < 0 < self.throttle or self.throttle < 0 < self.speed - REVERSE_BELOW:
            push += BRAKE * self.throttle
        else:
            top = TOP_SPEED if self.throttle >= 0 else REVERSE_SPEED
            push += GAS * self.throttle * (1 - max(self.speed / top, 0) ** 2)
        before, self.speed = self.speed, self.speed + push * TICK
        if before * self.speed < 0 and self.throttle == 0:
            self.speed = 0.0  # drag stops a car, it does not push it back
        self.speed = min(max(self.speed, REVERSE_SPEED), TOP_SPEED)
        turn = -self.speed * math.tan(self.steering * MAX_ANGLE) / WHEELBASE
        most = GRIP / max(abs(self.speed), 1.0)
        self.heading += min(max(turn, -most), most) * TICK
        self.x += self.speed * math.cos(self.heading) * TICK
        self.y += self.speed * math.sin(self.heading) * TICK
