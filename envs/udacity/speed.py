"""Keeps a speed: a PI controller of the pedal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SpeedController:
    """u = Kp e + Ki ∫ e dt, e the speed that lacks (mph), u the pedal within its limits.

    Time is real: how often it is asked changes nothing, so a simulator that keeps two requests under way, or a slow
    one, is driven alike. While the pedal is at a limit, an error that would push it further is not summed (conditional
    integration, Åström and Hägglund 1995, §3.5), so a long climb or a standing start leaves nothing to be unlearned.
    """

    target: float = 15.0
    """Miles an hour."""
    proportional: float = 0.15
    """Kp, pedal a mile an hour."""
    integral: float = 0.04
    """Ki, pedal a mile an hour and second."""
    least: float = -1.0
    """Of the pedal; below 0 it brakes."""
    most: float = 1.0
    summed: float = 0.0
    """∫ e dt, mile an hour seconds."""

    LONGEST = 0.5
    """Seconds of a pause beyond which time is not summed: who was away does not know what happened."""

    def reset(self) -> None:
        """A new drive."""
        self.summed = 0.0

    def update(self, speed: float, elapsed: float) -> float:
        """The pedal.

        Args:
            speed: miles an hour.
            elapsed: seconds since the last call, at least 0.
        """
        error = self.target - speed
        pedal = self.proportional * error + self.integral * self.summed
        if self.least < pedal < self.most or error * pedal < 0:
            self.summed += error * min(elapsed, self.LONGEST)
            pedal = self.proportional * error + self.integral * self.summed
        return min(max(pedal, self.least), self.most)
