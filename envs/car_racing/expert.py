"""A privileged driver for CarRacing-v3: it reads track and car exactly, and labels what a learner sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.envs.box2d.car_dynamics import (
    ENGINE_POWER,
    FRICTION_LIMIT,
    SIZE,
    WHEEL_MOMENT_OF_INERTIA,
    WHEEL_R,
    WHEELPOS,
)
from gymnasium.envs.box2d.car_racing import FPS

MASS = 7.3
"""Hull and four wheels, in Box2D's mass units."""
WHEEL_RADIUS = WHEEL_R * SIZE
AXLE_DISTANCE = WHEELPOS[0][1] * SIZE
"""From the hull's origin to the front axle, and very nearly to the rear one (world units)."""
WHEELBASE = 2 * AXLE_DISTANCE
MAX_WHEEL_ANGLE = 0.4
"""The steering joint's stop (radians). The environment steers to `-action[0]` radians, so ±0.4 is full lock."""
DRIVEN_INERTIA = MASS + 2 * WHEEL_MOMENT_OF_INERTIA / WHEEL_RADIUS**2
"""What the rear tyres push: the car's mass, and the front wheels, which only the road spins up."""
BRAKE_DECELERATION = 15 * FPS
"""Deceleration of a wheel at full brake (radians per second squared)."""
LOCKING_BRAKE = 0.9
"""Brake from which the official environment stops the wheels dead."""
SPIN_BRAKE = 0.8
"""Brake while the car spins: stops the wheels within a few steps, so that all four tyres pull against the motion."""
POINTS_A_TILE = 4
SPACING = 1.0
"""Distance between points of the racing line, about (world units)."""


@dataclass(eq=False)
class Expert:
    """Privileged driver: follows a racing line at the speed that the tyres' grip allows.

    At `reset` it lays a racing line inside the road (`racing_line`) and finds the highest speed at each of its points:
    turns of curvature κ hold `v² κ ≤ lateral_grip`, and before them braking and cornering share the friction circle,
    `(a_brake / braking_grip)² + (v² κ / lateral_grip)² ≤ 1`. In `act`, pure pursuit of a point on the line gives a
    curvature, `2 sin(bearing) / distance` (Coulter 1992), hence a wheel angle; the speed error gives an acceleration,
    hence, through the wheels' inertia and the engine's power, gas or brake within what the sliding tyres can transmit.

    `act` depends on the present state of the environment alone: car, track, and the number of tiles visited. It can be
    asked about any state, in any order. Steering labels lie within ±0.4, the stop of the steering joint.

    The class serves one episode of one environment at a time: call `reset` after each `env.reset`. It works on
    `CarRacing-v3` and its subclasses with continuous actions, wrapped or not. `benchmarks/tune_expert.py` is the search
    that found the constants. A negative or non-finite one raises ValueError.
    """

    half_width: float = 4.65
    """How far the racing line may leave the centre line (world units; the road's half width is 6.67)."""
    start_taper: float = 0.5
    """Growth of that bound per tile from the start, where the car stands in the middle (world units)."""
    length_weight: float = 0.00178
    """Preference of the racing line for shortness over straightness (dimensionless, ≥ 0)."""
    turn_curvature: float = 0.03319
    """Curvature from which the line counts a turn as tight and widens it (1/world unit)."""
    turn_exponent: float = 2.407
    """How much more tight turns count in the racing line (dimensionless, ≥ 0)."""
    lateral_grip: float = 245.0
    """Lateral acceleration planned for turns (world units/s²; four tyres at their limit give 219)."""
    braking_grip: float = 135.0
    """Deceleration planned for braking in a straight line (world units/s²)."""
    top_speed: float = 105.0
    """Speed planned for straights (world units/s; Box2D lets no body exceed 100)."""
    horizon: float = 37.0
    """Length of road ahead whose turns are braked for (world units; the picture shows 37 straight ahead)."""
    speed_scale: float = 1.0
    """Multiplies every planned speed; below 1 for a more cautious teacher."""
    lookahead: float = 5.922
    """Distance ahead of the pursued point at rest (world units)."""
    lookahead_time: float = 0.1656
    """Further distance of the pursued point per speed (seconds)."""
    countersteer: float = 1.204
    """Wheel angle per angle by which the rear slides more than the tyres need for their full grip (dimensionless)."""
    steer_gain: float = 1.205
    """Wheel angle per kinematic wheel angle (the bicycle model's wheelbase times curvature)."""
    yaw_gain: float = 0.02652
    """Wheel angle per error of the yaw rate (seconds): damps the turning in and out."""
    slip_limit: float = 0.1662
    """Largest angle between the front wheels and their velocity (radians): beyond it they only slide more."""
    turn_in_speed: float = 1.11
    """Speed allowed on the pursuit arc, relative to what `lateral_grip` allows: slows the car when off its line."""
    speed_gain: float = 13.34
    """Acceleration per speed error (1/s)."""
    speed_lead: float = 0.02582
    """Time by which the planned speed is read ahead (seconds): the tyres answer late."""
    traction: float = 1.113
    """Share of the rear tyres' friction limit that the gas may ask for."""
    brake_share: float = 1.148
    """Share of all tyres' friction limit that the brake may ask for."""
    brake_floor: float = 0.2396
    """Share of the friction limit that the brake may always ask for, however much the tyres slide sideways."""
    slip_saturation: float = 5.857
    """Sideways slip at which a tyre is held to have nothing left for gas or brake (world units/s)."""

    spin_slip: float = 18.0
    """Sideways slip of the rear, or speed backwards, from which the car is only braked (world units/s)."""

    def __post_init__(self) -> None:
        """Check the constants."""
        for constant in fields(self):
            value = getattr(self, constant.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Expert's {constant.name} is {value!r}; expected a finite number, at least 0")
        self._line: list[tuple[float, float, float]] = []

    def reset(self, env: Env[Any, Any]) -> None:
        """Plan the lap: racing line and speeds along it.

        Args:
            env: a CarRacing environment that has just been reset.

        Raises:
            RuntimeError: the environment has no track yet.
        """
        racing: Any = env.unwrapped
        if not len(getattr(racing, "track", ())):
            raise RuntimeError("the environment has no track yet: call env.reset() before Expert.reset(env)")
        track = np.array(racing.track)[:, 1:4]  # (N, 3): heading, x, y
        # The official track lacks one tile between its last and its first.
        seam = np.append(track[0, 0], (track[0, 1:] + track[-1, 1:]) / 2)
        track = np.concatenate([track, seam[None]])
        self._centre = track[:, 1:].copy()
        left = -np.stack([np.cos(track[:, 0]), np.sin(track[:, 0])], axis=1)
        half_width = np.minimum(self.half_width, self.start_taper * np.arange(len(track)))
        coarse = racing_line(
            self._centre, left, half_width, self.length_weight, self.turn_curvature, self.turn_exponent
        )
        x, y, tiles = _resample(coarse)
        count = len(x)
        heading = _heading(x, y)
        spacing = float(np.hypot(np.diff(x, append=x[0]), np.diff(y, append=y[0])).mean())
        turning = (np.roll(heading, -2) - np.roll(heading, 2) + math.pi) % (2 * math.pi) - math.pi
        speed = self._speed_profile(turning / (4 * spacing), spacing)

        self._x, self._y = x, y
        self._tangent = list(zip(np.cos(heading).tolist(), np.sin(heading).tolist(), strict=True))
        # Python floats: `act` reads single points, for which NumPy is slow.
        self._line = list(zip(x.tolist(), y.tolist(), speed.tolist(), strict=True))
        self._spacing = spacing
        # A car that has left the road must come back where it left, not to the part of the lap that is nearest: points
        # far before or after the last new tile look 20 units further away. Laid out for every place of that tile.
        gap = (np.arange(2 * count) - count) * spacing
        lap = count * spacing
        gap = (gap + lap / 2) % lap - lap / 2
        self._detour = np.where((gap > 35.0) | (gap < -90.0), 400.0, 0.0)
        self._frontier = np.minimum(np.searchsorted(tiles, np.arange(len(track) + 1)), count - 1).tolist()

    def act(self, env: Env[Any, Any]) -> np.ndarray:
        """Choose the action for the present state.

        Args:
            env: the environment that `reset` has seen, in any state.

        Returns:
            (3,) float32: steer in [-0.4, 0.4] (positive turns right), gas in [0, 1], brake in [0, 0.9).

        Raises:
            RuntimeError: there is no plan yet.
        """
        if not self._line:
            raise RuntimeError("the expert has no plan yet: call Expert.reset(env) after env.reset()")
        racing: Any = env.unwrapped
        hull = racing.car.hull
        x, y = hull.position
        velocity_x, velocity_y = hull.linearVelocity
        yaw_rate = hull.angularVelocity
        angle = hull.angle
        forward_x, forward_y = -math.sin(angle), math.cos(angle)
        forward_speed = velocity_x * forward_x + velocity_y * forward_y
        left_speed = velocity_y * forward_x - velocity_x * forward_y
        speed = math.hypot(forward_speed, left_speed)
        # Angles of slip mean nothing at rest.
        rolling_speed = max(forward_speed, 8.0)

        place = self._project(x, y, racing.tile_visited_count)

        # Pure pursuit: the circle through the car and the pursued point, tangent to its heading.
        target_x, target_y, _ = self._at(place + self.lookahead + self.lookahead_time * speed)
        target_x, target_y = target_x - x, target_y - y
        distance = max(math.hypot(target_x, target_y), 1e-6)
        bearing = math.atan2(target_y * forward_x - target_x * forward_y, target_x * forward_x + target_y * forward_y)
        if abs(bearing) < math.pi / 2:
            curvature = 2 * math.sin(bearing) / distance
        else:  # The point lies behind: turn as tightly as beside it.
            curvature = math.copysign(2 / distance, bearing)

        wheel_angle = self.steer_gain * WHEELBASE * curvature
        wheel_angle += self.yaw_gain * (rolling_speed * curvature - yaw_rate)
        rear_slip = left_speed - AXLE_DISTANCE * yaw_rate
        excess = rear_slip - min(max(rear_slip, -self.slip_saturation), self.slip_saturation)
        wheel_angle += self.countersteer * math.atan2(excess, rolling_speed)
        front_direction = math.atan2(left_speed + AXLE_DISTANCE * yaw_rate, rolling_speed)
        front_slip = min(max(wheel_angle - front_direction, -self.slip_limit), self.slip_limit)
        wheel_angle = min(max(front_direction + front_slip, -MAX_WHEEL_ANGLE), MAX_WHEEL_ANGLE)

        ahead = place + self.speed_lead * speed
        planned = self._at(ahead)[2]
        slope = (self._at(ahead + self._spacing)[2] - planned) / self._spacing
        allowed = self.turn_in_speed * math.sqrt(self.lateral_grip / max(abs(curvature), 1e-6))
        # While the plan slows down, its own deceleration v dv/ds is asked for before any error appears.
        acceleration = self.speed_gain * (min(planned, allowed) - forward_speed) + min(slope * planned, 0.0)

        gas = brake = 0.0
        if max(abs(rear_slip), -forward_speed) > self.spin_slip:
            brake = SPIN_BRAKE
        elif acceleration > 0:
            limit = 2 * self.traction * FRICTION_LIMIT * self._grip_left(rear_slip, 0.14)
            acceleration = min(acceleration, limit / DRIVEN_INERTIA)
            torque = acceleration * (DRIVEN_INERTIA * WHEEL_RADIUS / 2 + WHEEL_MOMENT_OF_INERTIA / WHEEL_RADIUS)
            spin = max(abs(racing.car.wheels[2].omega), abs(racing.car.wheels[3].omega))
            gas = min(torque * (spin + 5.0) / ENGINE_POWER, 1.0)  # 5: the official engine's own constant
        else:
            limit = (
                4
                * self.brake_share
                * FRICTION_LIMIT
                * self._grip_left(max(abs(rear_slip), abs(speed * front_slip)), self.brake_floor)
            )
            acceleration = min(-acceleration, limit / MASS)
            wheel_deceleration = acceleration * (1 / WHEEL_RADIUS + MASS / 4 * WHEEL_RADIUS / WHEEL_MOMENT_OF_INERTIA)
            brake = min(wheel_deceleration / BRAKE_DECELERATION, 0.99 * LOCKING_BRAKE)
        return np.array([-wheel_angle, gas, brake], dtype=np.float32)

    def off_road_distance(self, env: Env[Any, Any]) -> float:
        """Measure how far the car's origin is from the nearest point where two tiles meet on the centre line.

        Args:
            env: the environment that `reset` has seen.

        Returns:
            Distance (world units). The road's edge is at 6.67.

        Raises:
            RuntimeError: there is no plan yet.
        """
        if not self._line:
            raise RuntimeError("the expert has no plan yet: call Expert.reset(env) after env.reset()")
        racing: Any = env.unwrapped
        x, y = racing.car.hull.position
        return math.sqrt(((self._centre - (x, y)) ** 2).sum(axis=1).min())

    def _speed_profile(self, curvature: np.ndarray, spacing: float) -> np.ndarray:
        """Highest speed at each point (P,) from which every turn within the horizon can be braked for.

        Each pass carries the limits one point backwards, so the number of passes is the horizon.
        """
        square_limit = np.minimum(self.lateral_grip / np.maximum(np.abs(curvature), 1e-6), self.top_speed**2)
        square = square_limit
        for _ in range(round(self.horizon / spacing)):
            following = np.roll(square, -1)
            cornering = np.minimum(following * np.abs(np.roll(curvature, -1)) / self.lateral_grip, 1.0)
            braking = self.braking_grip * np.sqrt(1.0 - cornering**2)
            square = np.minimum(square_limit, following + 2 * spacing * braking)
        return self.speed_scale * np.sqrt(square)

    def _project(self, x: float, y: float, tiles_visited: int) -> float:
        """Distance along the line (world units) of the point nearest to (x, y)."""
        count = len(self._line)
        frontier = self._frontier[min(tiles_visited, len(self._frontier)) - 1]
        across, along = self._x - x, self._y - y
        detour = self._detour[count - frontier : 2 * count - frontier]
        nearest = int((across * across + along * along + detour).argmin())
        tangent_x, tangent_y = self._tangent[nearest]
        point_x, point_y, _ = self._line[nearest]
        return nearest * self._spacing + (x - point_x) * tangent_x + (y - point_y) * tangent_y

    def _at(self, distance: float) -> tuple[float, float, float]:
        """Position and planned speed at a distance along the line, between points by interpolation."""
        position = distance / self._spacing
        before = math.floor(position)
        share = position - before
        count = len(self._line)
        x0, y0, v0 = self._line[before % count]
        x1, y1, v1 = self._line[(before + 1) % count]
        return x0 + share * (x1 - x0), y0 + share * (y1 - y0), v0 + share * (v1 - v0)

    def _grip_left(self, slip: float, least: float) -> float:
        """Share of the friction circle's radius that sideways slip leaves for gas or brake."""
        return math.sqrt(max(1.0 - (slip / self.slip_saturation) ** 2, least**2))


def racing_line(
    centre: np.ndarray,
    left: np.ndarray,
    half_width: float | np.ndarray,
    length_weight: float = 0.0,
    turn_curvature: float = math.inf,
    turn_exponent: float = 1.0,
) -> np.ndarray:
    """Find the closed line in a corridor that turns little, and least where turning costs most.

    Minimises `Σ wᵢ |pᵢ₋₁ − 2pᵢ + pᵢ₊₁|² + length_weight Σ |pᵢ₊₁ − pᵢ|²` over offsets eᵢ, `|eᵢ| ≤ half_width`, of
    `pᵢ = centreᵢ + eᵢ leftᵢ`. First `wᵢ = 1`, which gives the line of least squared curvature. Its curvature κᵢ,
    smoothed, then gives `wᵢ ∝ (1 + (κᵢ / turn_curvature)²)^turn_exponent` (of mean 1), and the line is found once more:
    the tightest turns, after which the car must speed up longest, are widened at the others' expense.

    Each is a quadratic program with bounds, solved by the alternating direction method of multipliers with
    over-relaxation (Boyd et al. 2011, §5.2 and §3.4.3), for which the matrix is inverted once.

    Args:
        centre: (N, 2) points of the centre line, evenly spaced.
        left: (N, 2) unit normals.
        half_width: bound of the offsets (world units), one for all or (N,).
        length_weight: weight of the length, ≥ 0.
        turn_curvature: κ from which a turn counts as tight (1/world unit); infinite leaves `wᵢ = 1`.
        turn_exponent: how much tight turns count, ≥ 0.

    Returns:
        (N, 2) points of the line; every offset keeps its bound.
    """
    penalty, relaxation = 0.002, 1.6
    count = len(centre)
    identity = np.eye(count)
    first = np.roll(identity, 1, axis=1) - identity
    second = np.roll(identity, 1, axis=1) - 2 * identity + np.roll(identity, -1, axis=1)
    weights, bounded = np.ones(count), np.zeros(count)
    for final in (False, True):
        metric = (second.T * weights) @ second + length_weight * first.T @ first
        linear = (left * (metric @ centre)).sum(axis=1)
        inverse = np.linalg.inv(metric * (left @ left.T) + penalty * identity)
        multiplier = np.zeros(count)
        for _ in range(60):
            free = inverse @ (penalty * (bounded - multiplier) - linear)
            free = relaxation * free + (1 - relaxation) * bounded
            bounded = np.clip(free + multiplier, -half_width, half_width)
            multiplier += free - bounded
        line = centre + bounded[:, None] * left
        if not final:
            curvature = np.hypot(*(second @ line).T) / np.hypot(*(first @ line).T).mean() ** 2
            for _ in range(8):  # A binomial filter of two tiles' standard deviation.
                curvature = (np.roll(curvature, 1) + 2 * curvature + np.roll(curvature, -1)) / 4
            weights = (1 + (curvature / turn_curvature) ** 2) ** turn_exponent
            weights /= weights.mean()
    return line


def _resample(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Space points evenly on the Catmull-Rom spline of a closed polygon (N, 2): x, y, polygon index, each (P,)."""
    t = (np.arange(POINTS_A_TILE) / POINTS_A_TILE)[:, None, None]
    p0, p1, p2, p3 = (np.roll(points, shift, axis=0) for shift in (1, 0, -1, -2))
    spline = p1 + 0.5 * t * (
        (p2 - p0) + t * ((2 * p0 - 5 * p1 + 4 * p2 - p3) + t * (3 * p1 - p0 - 3 * p2 + p3))
    )  # (POINTS_A_TILE, N, 2)
    spline = spline.transpose(1, 0, 2).reshape(-1, 2)
    closed = np.concatenate([spline, spline[:1]])
    length = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    place = np.linspace(0.0, length[-1], round(length[-1] / SPACING), endpoint=False)
    index = np.arange(len(closed)) / POINTS_A_TILE
    return (
        np.interp(place, length, closed[:, 0]),
        np.interp(place, length, closed[:, 1]),
        np.interp(place, length, index),
    )


def _heading(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Direction of a closed line at each point (radians), over two points either side to quiet the resampling."""
    return np.arctan2(np.roll(y, -2) - np.roll(y, 2), np.roll(x, -2) - np.roll(x, 2))
