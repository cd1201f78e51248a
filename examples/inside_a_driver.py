"""Looks inside a trained driver while it drives: its neurons, how far they swing, and what its eyes look at."""

import gymnasium
import numpy as np

import liquid_control
from policies.saliency import saliency

SHADES = " .:-=+*#%@"


def main() -> None:
    """Drives two hundred frames of CarRacing and prints what was seen inside."""
    driver = liquid_control.load_driver("checkpoints/CarRacing-v3/cfc")
    print(driver.describe())

    env = gymnasium.make("envs:liquid_control/FastCarRacing-v3")
    observation, _ = env.reset(seed=3)
    driver.reset()
    history: dict[str, list[np.ndarray]] = {}
    score = 0.0
    for _ in range(200):
        action = driver.act(observation)
        observation, reward, *_ = env.step(action)
        score += float(reward)
        for kind, values in driver.neurons().items():
            history.setdefault(kind, []).append(values.copy())
    print(f"\n{score:.0f} points in four seconds; the last action: steer, gas, brake = {action.round(2)}")

    print("\nneurons: the least, the mean and the most that each was")
    for kind, values in history.items():
        for number, neuron in enumerate(np.array(values).T):
            print(f"  {kind:8}{number:2}   {neuron.min():+.2f} {neuron.mean():+.2f} {neuron.max():+.2f}")

    image, gauges = driver.view(observation)
    print(f"\nthe driver sees a picture of {image.shape[0]} × {image.shape[1]} and the gauges {gauges.round(2)}")
    print("what its eyes respond to, the more the darker:")
    for row in saliency(driver.eyes, image)[::2]:
        print("  " + "".join(SHADES[int(value * 9.99)] for value in row))


if __name__ == "__main__":
    main()
