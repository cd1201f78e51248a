"""The simulator's car in numbers: units, steering, size, and how often it is seen."""

from __future__ import annotations

import math

MPH = 0.44704
"""Metres a second of a mile an hour."""
MAX_STEERING_ANGLE = 25.0
"""Degrees of the front wheels at full steering, the simulator's command of 1."""
MAX_ANGLE = math.radians(MAX_STEERING_ANGLE)
WHEELBASE = 2.6
"""Metres."""
NOMINAL_INTERVAL = 1 / 15
"""Seconds between two pictures that do not tell the time."""
LARGEST_GAP = 1.0
"""Seconds between two pictures from which on they are of two stretches of driving."""
