"""Names under which Gymnasium finds this project's environments."""

from __future__ import annotations

import gymnasium


def register_environments() -> None:
    """Register this project's environments with Gymnasium; calling it again changes nothing.

    Importing `envs` does it. Gymnasium 1.0 gave up its plugin entry points, but a module in front of the name makes it
    import that module first, so this works with nothing imported:

        gymnasium.make("envs:liquid_control/FastCarRacing-v3")

    Limits and thresholds are the official ones.
    """
    if "liquid_control/FastCarRacing-v3" not in gymnasium.registry:
        gymnasium.register(
            id="liquid_control/FastCarRacing-v3",
            entry_point="envs.car_racing.fast:FastCarRacing",
            max_episode_steps=1000,
            reward_threshold=900,
        )
    if "liquid_control/UdacityStandIn-v0" not in gymnasium.registry:
        gymnasium.register(
            id="liquid_control/UdacityStandIn-v0",
            entry_point="envs.udacity.stand_in.environment:UdacityStandIn",
            max_episode_steps=2500,
        )
