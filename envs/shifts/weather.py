"""Rain, fog, snow, night and a low sun. What lies on the ground or falls moves under the camera as the car drives.

Every shift here knows whether it is seen from above or ahead over a level road; CarRacing's gauges are left alone. In
recordings, which do not tell where the car is, the ground stands still; what falls goes on falling.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from envs.shifts.base import Ground, PictureShift, Pose
from envs.shifts.textures import SIDE, smooth_noise, smooth_step
from envs.udacity.stand_in.camera import CENTER

UNIT = 1.944
"""Rows of CarRacing's picture that are a world unit."""


FARTHEST = 300.0
"""Metres at which fog takes the sky to be."""


class Falling:
    """A sheet of what falls, tileable, that moves across the view.

    Args:
        sheet: (rows, columns, 3) uint8, of the view's size.
        fall: rows and columns that it moves in a step.
        passing: rows that it moves back a world unit or metre that the car drives.
        turning: columns that it moves aside a radian that the car turns.
    """

    def __init__(self, sheet: np.ndarray, fall: tuple[float, float], passing: float, turning: float):
        self._rows, self._columns = sheet.shape[:2]
        self._sheet = np.tile(sheet, (2, 2, 1))
        self._fall, self._passing, self._turning = fall, passing, turning
        self._down = self._aside = 0.0
        self._last: Pose | None = None

    def __call__(self, pose: Pose | None) -> np.ndarray:
        """(rows, columns, 3): the sheet one step later."""
        self._down += self._fall[0]
        self._aside += self._fall[1]
        if pose is not None and self._last is not None:
            self._down += self._passing * math.hypot(pose.x - self._last.x, pose.y - self._last.y)
            self._aside += self._turning * math.remainder(pose.heading - self._last.heading, 2 * math.pi)
        self._last = pose
        row, column = -int(self._down) % self._rows, -int(self._aside) % self._columns
        return self._sheet[row : row + self._rows, column : column + self._columns]


class Rain(PictureShift):
    """Rain: wet things are darker, streaks fall, drops on the lens bend what is behind them.

    Streaks are slanted by up to 25°, as drawn for an episode; they fall by some 17 pixels a step, faster as the car
    drives, and swing as it turns. Drops stay where they are for an episode: each shows its surroundings upside down,
    half as large.

    ## Arguments
    - `severity`: light of 0.95, 0.87, 0.79, 0.7, 0.6; 20, 45, 80, 130, 200 streaks; 1, 3, 6, 9, 13 drops.
    """

    name = "rain"
    levels = ((0.95, 20, 1), (0.87, 45, 3), (0.79, 80, 6), (0.7, 130, 9), (0.6, 200, 13))

    def _prepare(self) -> None:
        scene, rng = self.scene, self.rng
        light, streaks, drops = self.level
        rows, columns, scale = scene.rows, scene.columns, scene.scale
        self._wet = np.rint(np.arange(256) * light).astype(np.uint8)
        slant = rng.uniform(-0.45, 0.45)
        at = rng.random((self.levels[-1][1], 4))[:streaks]
        sheet = np.zeros((rows, columns), np.uint8)
        for across, down, size, brightness in at.tolist():
            length = scale * (5 + 5 * size)
            x, y = across * columns, down * rows
            for shift_x in (-columns, 0, columns):
                for shift_y in (-rows, 0, rows):
                    begin = round(x + shift_x), round(y + shift_y)
                    end = round(x + shift_x + slant * length), round(y + shift_y + length)
                    cv2.line(sheet, begin, end, 50 + 60 * brightness, 1, cv2.LINE_AA)
        turning = 48.0 if scene.kind == "above" else CENTER.focal
        passing = UNIT if scene.kind == "above" else 6.0
        fall = 17 * scale
        self._streaks = Falling(np.dstack([sheet] * 3), (fall, slant * fall), passing, turning)
        across, down = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
        seen_across, seen_down = across.copy(), down.copy()
        for x, y, size in rng.random((self.levels[-1][2], 3))[:drops].tolist():
            x, y, radius = x * columns, y * rows, scale * (2 + 2.5 * size)
            inside = (across - x) ** 2 + (down - y) ** 2 <= radius**2
            seen_across[inside] = x - 2 * (across[inside] - x)
            seen_down[inside] = y - 2 * (down[inside] - y)
        self._seen = cv2.convertMaps(seen_across, seen_down, cv2.CV_16SC2)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        wet = cv2.LUT(view, self._wet)
        behind_drops = cv2.remap(wet, *self._seen, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return cv2.add(behind_drops, self._streaks(pose))


class Fog(PictureShift):
    """Fog by depth, denser and thinner in drifting patches.

    A thing at depth d loses the share 1 - exp(-d / visibility) of its colour to grey. From above, d is its distance
    from the car; over the road, it is the depth of the ground in its row, and above the horizon everything is 300 m
    away.

    ## Arguments
    - `severity`: visibilities of 120, 60, 35, 20, 12 world units, or 160, 80, 45, 25, 14 metres.
    """

    name = "fog"
    levels = ((120, 160), (60, 80), (35, 45), (20, 25), (12, 14))
    COLOUR = (198, 203, 208)

    def _prepare(self) -> None:
        scene = self.scene
        above = scene.kind == "above"
        right, ahead = scene.places()
        depth = np.hypot(right, ahead) if above else np.minimum(ahead, FARTHEST)
        self._thick = (1 - np.exp(-depth / self.level[0 if above else 1])).astype(np.float32)
        self._patches = 0.7 + 0.6 * smooth_noise(self.rng, (5, 5))
        self._ground = Ground(scene, SIDE, 220.0 if above else 160.0)
        self._grey = np.full((scene.rows, scene.columns, 3), self.COLOUR, np.uint8)
        self._wind, self._blown = self.rng.uniform(-0.3, 0.3, 2), np.zeros(2)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        self._blown += self._wind
        here = pose or Pose()
        drifted = here._replace(x=here.x + self._blown[0], y=here.y + self._blown[1])
        share = self._thick.copy()
        share[self.scene.first_ground_row :] *= self._ground.sample(self._patches, drifted)
        share = np.minimum(share, 1)
        return cv2.blendLinear(view, self._grey, 1 - share, share)


class Snow(PictureShift):
    """Snow lies in patches on road and grass, and flakes fall.

    The patches lie on the ground, and as much on a car that is seen from above. Flakes are 1 or 2 pixels wide, fall by
    4 pixels a step, faster as the car drives, and swing as it turns.

    ## Arguments
    - `severity`: 0.15, 0.28, 0.42, 0.56, 0.7 of the way to white where snow lies thickest, on a growing part of the
      ground; 30, 60, 110, 170, 240 flakes.
    """

    name = "snow"
    levels = ((0.15, 30), (0.28, 60), (0.42, 110), (0.56, 170), (0.7, 240))

    def _prepare(self) -> None:
        scene, rng = self.scene, self.rng
        cover, flakes = self.level
        rows, columns, scale = scene.rows, scene.columns, scene.scale
        self._cover = (cover * smooth_step(smooth_noise(rng, (24, 24)), 0.6 - cover / 2, 0.9 - cover / 2)).astype(
            np.float32
        )
        self._ground = Ground(scene, SIDE, 170.0 if scene.kind == "above" else 64.0)
        self._white = np.full((rows - scene.first_ground_row, columns, 3), (238, 241, 246), np.uint8)
        sheet = np.zeros((rows, columns), np.uint8)
        for across, down, size in rng.random((self.levels[-1][1], 3))[:flakes].tolist():
            cv2.circle(
                sheet, (int(across * columns), int(down * rows)), round(scale * size * 0.8), 200, -1, cv2.LINE_AA
            )
        fall = 4 * scale
        aside = float(rng.uniform(-0.5, 0.5)) * fall
        above = scene.kind == "above"
        self._flakes = Falling(
            np.dstack([sheet] * 3), (fall, aside), UNIT if above else 6.0, 48.0 if above else CENTER.focal
        )

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        share = self._ground.sample(self._cover, pose)
        first = self.scene.first_ground_row
        ground = cv2.blendLinear(view[first:], self._white, 1 - share, share)
        flakes = self._flakes(pose)
        if not first:
            return cv2.add(ground, flakes)
        result = cv2.add(view, flakes)
        cv2.add(ground, flakes[first:], dst=result[first:])
        return result


class Night(PictureShift):
    """Night: little light but that of the car's own headlights, a cone that goes where the car goes.

    The cone begins at the car's front and is 25° wide to either side, with a soft rim; it fades with the distance by
    half in 18 world units, or in 16 metres. What is left of daylight is bluish.

    ## Arguments
    - `severity`: daylight of 0.6, 0.42, 0.28, 0.16, 0.07; in the cone 0.9, 0.85, 0.8, 0.75, 0.7 more at the most, never
      more than all of it.
    """

    name = "night"
    levels = ((0.6, 0.9), (0.42, 0.85), (0.28, 0.8), (0.16, 0.75), (0.07, 0.7))

    def _prepare(self) -> None:
        daylight, lamps = self.level
        right, ahead = self.scene.places()
        above = self.scene.kind == "above"
        front = 2.6 if above else 0.0  # of the hull, ahead of the middle that the places are counted from
        ahead = np.where(np.isfinite(ahead), ahead, -1.0) - front
        right = np.where(np.isfinite(right), right, 0.0)
        away = np.arctan2(np.abs(right) - (1.0 if above else 0.8), np.maximum(ahead, 1e-6))
        beam = (ahead > 0) * (1 - smooth_step(away, math.radians(15), math.radians(25)))
        beam = beam * 0.5 ** (np.maximum(ahead, 0) / (18 if above else 16))
        light = np.minimum(daylight * np.array([0.85, 0.92, 1.1]) + (lamps * beam)[..., None], 1.0)
        self._light = light.astype(np.float32)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return cv2.multiply(view, self._light, dtype=cv2.CV_8U)


class LowSun(PictureShift):
    """A low sun: warm light, long shadows on the ground, and glare where the camera looks towards it.

    Shadows lie on the ground, some 8 world units or 2 metres wide and eight times as long, all in the direction away
    from the sun, which is drawn for an episode. Glare is seen in the simulator's camera only, around the horizon.

    ## Arguments
    - `severity`: shadows take 0.2, 0.35, 0.5, 0.65, 0.8 of the light; glare adds up to 50, 90, 130, 170, 210 levels.
    """

    name = "low_sun"
    levels = ((0.2, 50), (0.35, 90), (0.5, 130), (0.65, 170), (0.8, 210))

    def _prepare(self) -> None:
        shade, glare = self.level
        scene = self.scene
        above = scene.kind == "above"
        self._sun = self.rng.uniform(-math.pi, math.pi)
        # Shadows are long along the texture's columns, the x axis of the world turned to the sun.
        dark = smooth_step(smooth_noise(self.rng, (32, 4)), 0.5, 0.62)
        self._gain = (1 - shade * dark).astype(np.float32)
        self._ground = Ground(scene, SIDE, 256.0 if above else 64.0)
        self._tint = np.array([1 + 0.1 * shade, 1.0, 1 - 0.35 * shade], np.float32)
        self._glare = glare
        row, column = np.mgrid[: scene.rows, : 3 * scene.columns]
        if not above:
            away = ((row - CENTER.horizon + 14) / 34) ** 2 + ((column - 1.5 * scene.columns) / 60) ** 2
            self._halo = np.dstack([glare * np.exp(-away / 2)] * 3).astype(np.uint8)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        scene, first = self.scene, self.scene.first_ground_row
        light = self._ground.sample(self._gain, pose, self._sun)[..., None] * self._tint
        ground = cv2.multiply(view[first:], light, dtype=cv2.CV_8U)
        if scene.kind == "above":
            return ground
        result = np.vstack([view[:first], ground])
        towards = math.remainder(self._sun - (pose or Pose()).heading, 2 * math.pi)
        if abs(towards) >= math.pi / 2:
            return result
        column = scene.columns / 2 - CENTER.focal * math.tan(towards)
        left = round(1.5 * scene.columns - column)
        if not 0 <= left <= 2 * scene.columns:
            return result
        return cv2.add(result, self._halo[:, left : left + scene.columns])


WEATHER: tuple[type[PictureShift], ...] = (Rain, Fog, Snow, Night, LowSun)
