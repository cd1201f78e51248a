"""Names under which Gymnasium finds the environments that drivers know, and which seeds of theirs are for what."""

from __future__ import annotations

import gymnasium

OFFICIAL = "CarRacing-v3"
"""Gymnasium's own environment, the scoreboard."""
FAST = "liquid_control/FastCarRacing-v3"
"""The same, many times faster."""
UDACITY = "liquid_control/Udacity-v0"
"""The live simulator, behind a bridge of its own."""
STAND_IN = "liquid_control/UdacityStandIn-v0"
"""What stands in for it, in this process."""

#: Seeds: what is learned on, chosen on and judged on never meets.
TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS = 0, 1_000_000, 2_000_000


def register_environments() -> None:
    """Register this project's environments with Gymnasium; calling it again changes nothing.

    Importing `envs` does it. Gymnasium 1.0 gave up its plugin entry points, but a module in front of the name makes it
    import that module first, so this works with nothing imported:

        gymnasium.make("envs:liquid_control/FastCarRacing-v3")

    CarRacing's limits and thresholds are the official ones.
    """
    if FAST not in gymnasium.registry:
        gymnasium.register(
            id=FAST,
            entry_point="envs.car_racing.fast:FastCarRacing",
            max_episode_steps=1000,
            reward_threshold=900,
        )
    if STAND_IN not in gymnasium.registry:
        gymnasium.register(
            id=STAND_IN,
            entry_point="envs.udacity.stand_in.environment:UdacityStandIn",
            max_episode_steps=2500,
        )
    if UDACITY not in gymnasium.registry:
        gymnasium.register(
            id=UDACITY,
            entry_point="envs.udacity.live:Udacity",
            max_episode_steps=2500,
            nondeterministic=True,  # time is real
        )
