"""The world painted once an episode, so that a frame is one affine warp of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from gymnasium.envs.box2d.car_racing import BORDER, GRASS_DIM, PLAYFIELD, STATE_W, TRACK_WIDTH

from envs.car_racing.canvas import CAR_X, CAR_Y, COLUMN, FULL_ZOOM, PLAYFIELD_ROWS, ROW, Colour, shrunk_colour
from envs.car_racing.track import TrackPoint

# At 3 pixels a unit a grass square is exactly 50 pixels, and a pixel's box, the warp's linear interpolation and a
# polygon's antialiased rim together blur about as much as the official shrink does, so one warp without
# supersampling suffices.
RESOLUTION = 3
SIDE = round(2 * PLAYFIELD * RESOLUTION)
LEVELS = 5  # at the widest zoom the camera sees a sixteenth of the resolution
GRASS_PIXELS = round(GRASS_DIM * RESOLUTION)
SHIFT = 6  # fractional bits of a vertex

# OpenCV's antialiased polygons grow by 0.65 pixels; pygame's by half a canvas pixel.
RIM = 0.65 / RESOLUTION - 0.5 / FULL_ZOOM
# A visited tile is painted again inside its antialiased sides. Without antialiasing a polygon grows by 0.35 pixels.
REPAINT_RIM = RIM + 0.7 / RESOLUTION
KERB_COLOURS = (shrunk_colour((255, 255, 255)), shrunk_colour((255, 0, 0)))

Box = tuple[int, int, int, int]  # left, bottom, right, top in pixels of the full map


class RoadMap:
    """A picture of the whole playfield with a pyramid of smaller copies, and a camera over it.

    The pictures have four channels (the fourth is unused): OpenCV warps four faster than three. Memory: 21 MB.

    A new track repaints only the rectangles that the last one covered and those of its own, unless the colours changed.
    """

    def __init__(self) -> None:
        self._levels = [np.zeros((SIDE >> k, SIDE >> k, 4), np.uint8) for k in range(LEVELS)]
        self._field: tuple[Colour, Colour] | None = None
        self._painted: Box | None = None
        self._inner: np.ndarray = np.empty((0, 4, 2), np.int32)
        self._matrix = np.zeros((2, 3))
        self._view = np.empty((PLAYFIELD_ROWS, STATE_W, 4), np.uint8)

    def paint(
        self,
        track: list[TrackPoint],
        kerbs: list[bool],
        shades: Sequence[np.ndarray],
        background: np.ndarray,
        grass: np.ndarray,
    ) -> None:
        """Paint the world of a new episode.

        Args:
            track: N points of the road.
            kerbs: N flags: whether a tile has a kerb.
            shades: RGB colours, 0 to 255, that the tiles take in turn.
            background: RGB of the field.
            grass: RGB of the lighter squares.
        """
        world = self._levels[0]
        field = (shrunk_colour(background), shrunk_colour(grass))
        points = np.array(track)
        reach = TRACK_WIDTH + BORDER + 1.0
        low = np.maximum((points[:, 2:].min(0) - reach + PLAYFIELD) * RESOLUTION, 0).astype(int)
        high = np.minimum((points[:, 2:].max(0) + reach + PLAYFIELD) * RESOLUTION, SIDE).astype(int)
        box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        if field == self._field and self._painted is not None:
            # Elsewhere the map still shows the empty field.
            old = self._painted
            changed = (min(box[0], old[0]), min(box[1], old[1]), max(box[2], old[2]), max(box[3], old[3]))
            self._paint_field(old)
        else:
            changed = (0, 0, SIDE, SIDE)
            self._field = field
            self._paint_field(changed)
        self._painted = box

        outlines = _fixed_point(_tile_outlines(points, RIM))
        self._inner = _fixed_point(_tile_outlines(points, REPAINT_RIM))
        kerb_outlines = _fixed_point(_kerb_outlines(points))
        fill = cv2.fillConvexPoly
        tile_colours = [shrunk_colour(shade) for shade in shades]
        for i, outline in enumerate(outlines):
            if kerbs[i]:
                fill(world, kerb_outlines[i], KERB_COLOURS[i % 2], cv2.LINE_AA, SHIFT)
            fill(world, outline, tile_colours[i % len(shades)], cv2.LINE_AA, SHIFT)
        self._shrink(changed)

    def recolour_tile(self, i: int, colour: np.ndarray, all_levels: bool) -> None:
        """Paint tile i again.

        Args:
            i: the tile's index.
            colour: RGB, 0 to 255.
            all_levels: also in the smaller copies, which only the first second's zoom shows.
        """
        colour_on_map = shrunk_colour(colour)
        cv2.fillConvexPoly(self._levels[0], self._inner[i], colour_on_map, cv2.LINE_8, SHIFT)
        if all_levels:
            for k in range(1, LEVELS):
                # Pixel centres lie at halves, so a coordinate shrinks about -1/2.
                corners = ((self._inner[i] + (1 << SHIFT - 1)) >> k) - (1 << SHIFT - 1)
                cv2.fillConvexPoly(self._levels[k], corners, colour_on_map, cv2.LINE_8, SHIFT)

    def photograph(self, x: float, y: float, angle: float, zoom: float, frame: np.ndarray) -> None:
        """Fill the playfield of an observation as the camera sees it, without the car.

        Args:
            x: the car's position (world units).
            y: the car's position (world units).
            angle: the car's heading (radians).
            zoom: canvas pixels a world unit: 16.2 after the first second.
            frame: (96, 96, 3) uint8; rows 0–83 are overwritten.
        """
        # Of the smaller copies, the one whose pixels are nearest to the camera's: coarser blurs, finer flickers.
        level = 0 if zoom == FULL_ZOOM else min(LEVELS - 1, int(math.log2(FULL_ZOOM / zoom) + 0.5))
        resolution = RESOLUTION / (1 << level)
        step_x = COLUMN / zoom  # world units from column to column
        step_y = ROW / zoom
        first_x = 0.5 * step_x - CAR_X / zoom
        first_y = CAR_Y / zoom - 0.5 * step_y
        c, s = math.cos(angle), math.sin(angle)
        matrix = self._matrix
        matrix[0, 0] = c * step_x * resolution
        matrix[0, 1] = s * step_y * resolution
        matrix[0, 2] = (x + PLAYFIELD + c * first_x - s * first_y) * resolution - 0.5
        matrix[1, 0] = s * step_x * resolution
        matrix[1, 1] = -c * step_y * resolution
        matrix[1, 2] = (y + PLAYFIELD + s * first_x + c * first_y) * resolution - 0.5
        view, size = self._view, (STATE_W, PLAYFIELD_ROWS)
        cv2.warpAffine(self._levels[level], matrix, size, dst=view, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        cv2.cvtColor(view, cv2.COLOR_RGBA2RGB, dst=frame[:PLAYFIELD_ROWS])

    def _paint_field(self, box: Box) -> None:
        """Paint the empty field over a rectangle: one 32-bit number a pixel, which NumPy fills fastest."""
        assert self._field is not None
        background, grass = (np.array([*colour, 0], np.uint8).view(np.uint32)[0] for colour in self._field)
        world = self._levels[0].view(np.uint32)[..., 0]
        left, bottom, right, top = box
        world[bottom:top, left:right] = background
        period = 2 * GRASS_PIXELS
        for row in range(bottom // period * period, top, period):
            for column in range(left // period * period, right, period):
                world[row : row + GRASS_PIXELS, column : column + GRASS_PIXELS] = grass

    def _shrink(self, box: Box) -> None:
        """Bring the smaller copies up to date within a rectangle."""
        unit = 1 << (LEVELS - 1)
        left, bottom = (v // unit * unit for v in box[:2])
        right, top = (min(-(-v // unit) * unit, SIDE) for v in box[2:])
        for k in range(1, LEVELS):
            source = self._levels[k - 1][bottom >> k - 1 : top >> k - 1, left >> k - 1 : right >> k - 1]
            target = self._levels[k][bottom >> k : top >> k, left >> k : right >> k]
            target[:] = cv2.resize(source, (target.shape[1], target.shape[0]), interpolation=cv2.INTER_AREA)


def _tile_outlines(points: np.ndarray, inset: float) -> np.ndarray:
    """Tiles that are narrower by `inset` on either side: (N, 4, 2) in world units."""
    across = np.stack([np.cos(points[:, 1]), np.sin(points[:, 1])], 1) * (TRACK_WIDTH - inset)
    centre = points[:, 2:]
    left, right = centre - across, centre + across
    return np.stack([left, right, np.roll(right, 1, 0), np.roll(left, 1, 0)], 1)


def _kerb_outlines(points: np.ndarray) -> np.ndarray:
    """Kerbs, reaching under the road on their inner side, so that no grass shows through the seam: (N, 4, 2)."""
    beta, centre = points[:, 1], points[:, 2:]
    direction = np.stack([np.cos(beta), np.sin(beta)], 1)
    side = np.sign(np.roll(beta, 1) - beta)[:, None]
    before, direction_before = np.roll(centre, 1, 0), np.roll(direction, 1, 0)
    inner, outer = side * (TRACK_WIDTH - 0.5), side * (TRACK_WIDTH + BORDER - RIM)
    # A kerb's rim would hide the end of the one before it.
    along = centre - before
    before = before + along * (RIM / np.linalg.norm(along, axis=1, keepdims=True))
    return np.stack(
        [
            centre + inner * direction,
            centre + outer * direction,
            before + outer * direction_before,
            before + inner * direction_before,
        ],
        1,
    )


def _fixed_point(corners: np.ndarray) -> np.ndarray:
    """World units to OpenCV's fixed-point pixels, whose centres lie at whole numbers."""
    return np.rint(((corners + PLAYFIELD) * RESOLUTION - 0.5) * (1 << SHIFT)).astype(np.int32)
