"""Names under which Gymnasium finds this project's environments."""

from __future__ import annotations

import gymnasium


def register_environments() -> None:
    """Register this project's environments with Gymnasium; calling it again changes nothing.

    Importing `envs` does it. Gymnasium 1.0 gave up its plugin entry points, but a module in front of the name makes it
    import that module first, so this works with nothing imported:

        gymnasium.make("envs:liquid_control/FastCarRacing-v3")

    CarRacing's limits and thresholds are the official ones. `liquid_control/Udacity-v0` is the live simulator, behind a
    bridge of its own; `liquid_control/UdacityStandIn-v0` is what stands in for it, in this process.
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
    if "liquid_control/Udacity-v0" not in gymnasium.registry:
        gymnasium.register(
            id="liquid_control/Udacity-v0",
            entry_point="envs.udacity.live:Udacity",
            max_episode_steps=2500,
            nondeterministic=True,  # time is real
        )
