"""The official track generator, written for speed: the same random numbers, the same track to the last bit."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from Box2D.b2 import bodyDef
from gymnasium.envs.box2d.car_racing import (
    BORDER,
    BORDER_MIN_COUNT,
    SCALE,
    TRACK_DETAIL_STEP,
    TRACK_RAD,
    TRACK_TURN_RATE,
    TRACK_WIDTH,
)
from numpy.random import Generator

CHECKPOINTS = 12
START_ALPHA = 2 * math.pi * (-0.5) / CHECKPOINTS  # direction from the field's centre at which a lap begins
MAX_POINTS = 2500  # a drive that has not closed five laps by then is cut off
KERB_TURN = TRACK_TURN_RATE * 0.2  # a tile turns harder than this where it may have a kerb
FULL_TURN = 2 * math.pi

Point = tuple[float, float]
Quad = list[Point]


class TrackPoint(NamedTuple):
    """One step of the road: direction from the field's centre, heading (radians), position (world units)."""

    alpha: float
    beta: float
    x: float
    y: float


def draw_track(rng: Generator) -> list[TrackPoint] | None:
    """Drive once round randomly placed checkpoints and keep the second closed lap.

    Args:
        rng: the environment's generator; 24 uniform numbers are drawn.

    Returns:
        The points of the lap, or None where the drive does not close: then draw again, as the official one does.
    """
    points = _drive(_checkpoints(rng))
    # The last two passes through the start enclose the lap that is kept.
    passes: list[int] = []
    for i in range(len(points) - 1, 0, -1):
        if points[i][0] > START_ALPHA and points[i - 1][0] <= START_ALPHA:
            passes.append(i)
            if len(passes) == 2:
                break
    if len(passes) < 2:
        return None
    lap = points[passes[1] : passes[0] - 1]

    first, last = lap[0], lap[-1]
    gap_x = math.cos(first[1]) * (first[2] - last[2])
    gap_y = math.sin(first[1]) * (first[3] - last[3])
    if math.sqrt(gap_x * gap_x + gap_y * gap_y) > TRACK_DETAIL_STEP:
        return None
    return [TrackPoint(*point) for point in lap]


def _checkpoints(rng: Generator) -> list[tuple[float, float, float]]:
    checkpoints = []
    for c in range(CHECKPOINTS):
        noise = rng.uniform(0, 2 * math.pi * 1 / CHECKPOINTS)
        alpha = 2 * math.pi * c / CHECKPOINTS + noise
        radius = rng.uniform(TRACK_RAD / 3, TRACK_RAD)
        if c == 0:
            alpha = 0
            radius = 1.5 * TRACK_RAD
        if c == CHECKPOINTS - 1:
            alpha = 2 * math.pi * c / CHECKPOINTS
            radius = 1.5 * TRACK_RAD
        checkpoints.append((alpha, radius * math.cos(alpha), radius * math.sin(alpha)))
    return checkpoints


def _drive(checkpoints: list[tuple[float, float, float]]) -> list[tuple[float, float, float, float]]:
    """Steer from checkpoint to checkpoint for five laps."""
    atan2, cos, sin = math.atan2, math.cos, math.sin
    x, y, beta = 1.5 * TRACK_RAD, 0.0, 0.0
    target = 0
    laps = 0
    points: list[tuple[float, float, float, float]] = []
    visited_other_side = False
    while True:
        alpha = atan2(y, x)
        if visited_other_side and alpha > 0:
            laps += 1
            visited_other_side = False
        if alpha < 0:
            visited_other_side = True
            alpha += FULL_TURN

        # The next checkpoint ahead; where the list is used up, begin it again one turn lower.
        while alpha > checkpoints[target % CHECKPOINTS][0]:
            target += 1
            if target % CHECKPOINTS == 0:
                alpha -= FULL_TURN
        _, target_x, target_y = checkpoints[target % CHECKPOINTS]

        radial_x = cos(beta)
        radial_y = sin(beta)
        projection = radial_x * (target_x - x) + radial_y * (target_y - y)
        while beta - alpha > 1.5 * math.pi:
            beta -= FULL_TURN
        while beta - alpha < -1.5 * math.pi:
            beta += FULL_TURN
        previous = beta
        projection *= SCALE
        if projection > 0.3:
            beta -= min(TRACK_TURN_RATE, 0.001 * projection)
        elif projection < -0.3:
            beta += min(TRACK_TURN_RATE, abs(0.001 * projection))
        x += -radial_y * TRACK_DETAIL_STEP
        y += radial_x * TRACK_DETAIL_STEP
        points.append((alpha, previous * 0.5 + beta * 0.5, x, y))
        if laps > 4 or len(points) == MAX_POINTS:
            return points


def kerbs(track: list[TrackPoint]) -> list[bool]:
    """Which tiles have a red and white kerb: those within a hard turn that keeps its direction.

    Args:
        track: N points.

    Returns:
        N flags.
    """
    turns = [track[i].beta - track[i - 1].beta for i in range(len(track))]
    sharp = [(turn > KERB_TURN) - (turn < -KERB_TURN) for turn in turns]
    border = [abs(sum(sharp[i - k] for k in range(BORDER_MIN_COUNT))) == BORDER_MIN_COUNT for i in range(len(track))]
    # In place and in order, as the official loop does it: flags set behind the start are seen again at the lap's end.
    for i in range(len(track)):
        if border[i]:
            for k in range(BORDER_MIN_COUNT):
                border[i - k] = True
    return border


def tile_corners(track: list[TrackPoint], i: int) -> Quad:
    """Corners of tile i: left and right at its own point, right and left at the point before it."""
    _, beta, x, y = track[i]
    _, beta_before, x_before, y_before = track[i - 1]
    across_x = TRACK_WIDTH * math.cos(beta)
    across_y = TRACK_WIDTH * math.sin(beta)
    before_x = TRACK_WIDTH * math.cos(beta_before)
    before_y = TRACK_WIDTH * math.sin(beta_before)
    return [
        (x - across_x, y - across_y),
        (x + across_x, y + across_y),
        (x_before + before_x, y_before + before_y),
        (x_before - before_x, y_before - before_y),
    ]


def kerb_corners(track: list[TrackPoint], i: int) -> Quad:
    """Corners of the kerb beside tile i, which lies on the outer side of the turn."""
    _, beta, x, y = track[i]
    _, beta_before, x_before, y_before = track[i - 1]
    side = (beta_before > beta) - (beta_before < beta)
    inner = side * TRACK_WIDTH
    outer = side * (TRACK_WIDTH + BORDER)
    c, s = math.cos(beta), math.sin(beta)
    c_before, s_before = math.cos(beta_before), math.sin(beta_before)
    return [
        (x + inner * c, y + inner * s),
        (x + outer * c, y + outer * s),
        (x_before + outer * c_before, y_before + outer * s_before),
        (x_before + inner * c_before, y_before + inner * s_before),
    ]


def tile_shades(road_colour: np.ndarray) -> list[np.ndarray]:
    """The colours that tiles take in turn until they are touched."""
    return [road_colour + 0.01 * k * 255 for k in range(3)]


def lay_road(env: Any, track: list[TrackPoint]) -> list[bool]:
    """Make the tiles and kerbs of a track, as the end of the official `_create_track` does.

    Args:
        env: the official environment or the fast one; its `track`, `road` and `road_poly` are set.
        track: N points.

    Returns:
        N flags: whether a tile has a kerb.
    """
    flags = kerbs(track)
    corners = [tile_corners(track, i) for i in range(len(track))]
    shades = tile_shades(env.road_color)
    env.track, env.road = track, []
    for i, tile in enumerate(lay_tiles(env.world, env.fd_tile, corners)):
        tile.userData = tile
        tile.color = shades[i % 3].copy()
        tile.road_visited = False
        tile.road_friction = 1.0
        tile.idx = i
        tile.touched = False
        env.road.append(tile)
        env.road_poly.append((corners[i], tile.color))
        if flags[i]:
            colour = (255, 255, 255) if i % 2 == 0 else (255, 0, 0)
            env.road_poly.append((kerb_corners(track, i), colour))
    return flags


def lay_tiles(world: Any, tile_definition: Any, corners: list[Quad]) -> list[Any]:
    """Create one static sensor body a tile.

    Args:
        world: the Box2D world.
        tile_definition: a fixture definition with a polygon shape, reused for every tile.
        corners: N quadrilaterals (world units).

    Returns:
        N bodies, without the attributes that the environment adds.
    """
    tiles = []
    shape = tile_definition.shape
    tile_definition.isSensor = True
    body_definition = bodyDef()  # static, at the origin; made once, since it takes as long as the body itself
    for quad in corners:
        shape.vertices = quad
        body = world.CreateBody(body_definition)
        body.CreateFixture(tile_definition)
        tiles.append(body)
    return tiles
