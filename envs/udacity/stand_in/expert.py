"""A driver that knows the road: pure pursuit of its middle, and speeds that the bends allow."""

from __future__ import annotations

import math

import numpy as np

from envs.udacity.speed import SpeedController
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.vehicle import MAX_ANGLE, MPH, WHEELBASE


class RoadExpert:
    """Steers the rear axle's circle through a point ahead (Coulter 1992): δ = atan(2 L sin α / d).

    Args:
        speed: miles an hour where the road is straight.
        comfort: largest sideways acceleration in a bend (m/s²).
    """

    def __init__(self, speed: float = 15.0, comfort: float = 4.0):
        self.speed, self.comfort = speed, comfort
        self.pedal = SpeedController(speed)

    def reset(self) -> None:
        """A new drive."""
        self.pedal.reset()

    def act(self, env: UdacityStandIn, elapsed: float) -> tuple[float, float]:
        """Steering and pedal, each -1 to 1.

        Args:
            env: where the car is.
            elapsed: seconds since the last call.
        """
        car, road = env.car, env.road
        reach = 4 + 0.4 * max(car.speed, 1.0)
        x, y, _ = road.points[(env.nearest + int(reach / road.spacing)) % len(road.points)]
        angle = math.remainder(math.atan2(y - car.y, x - car.x) - car.heading, 2 * math.pi)
        steering = -math.atan(2 * WHEELBASE * math.sin(angle) / reach) / MAX_ANGLE
        braking = int((5 + car.speed**2 / 8) / road.spacing)
        ahead = np.arange(env.nearest, env.nearest + braking) % len(road.points)
        sharpest = float(np.abs(road.curvature[ahead]).max()) / road.spacing
        self.pedal.target = min(self.speed, math.sqrt(self.comfort / max(sharpest, 1e-6)) / MPH)
        return min(max(steering, -1.0), 1.0), self.pedal.update(car.speed / MPH, elapsed)
