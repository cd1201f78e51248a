"""Shipped drivers as ONNX models beside themselves: the largest differences over a whole lap.

onnxruntime drives, its state carried by the model alone; torch sees the same frames with a state of its own. Needs
`pip install -e ".[onnx]"`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import numpy as np
import onnxruntime

from envs.registration import FAST, VALIDATION_SEEDS
from liquid_control.export import export_onnx
from liquid_control.support import command
from policies.driver import load_driver

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints" / "CarRacing-v3"
SEED = VALIDATION_SEEDS + 800


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drivers", nargs="*", help="names of shipped drivers; all of them if none is given")
    names = parser.parse_args().drivers or sorted(folder.name for folder in CHECKPOINTS.iterdir())
    print("| driver | steps | score | lap | control, largest difference | state |\n|---|---|---|---|---|---|")
    for name in names:
        print(f"| {name} | {' | '.join(drive(CHECKPOINTS / name))} |", flush=True)


def drive(checkpoint: Path) -> list[str]:
    """The cells of one driver's row."""
    driver = load_driver(checkpoint)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(export_onnx(driver), options)
    state = driver.core.initial_state(1).detach().numpy()
    env = gymnasium.make(FAST, disable_env_checker=True)
    observation, _ = env.reset(seed=SEED)
    steps, score, differences, over = 0, 0.0, np.zeros(2), False
    while not over:
        if steps % driver.config.action_repeat == 0:
            image, gauges = driver.view(observation)
            given = {"image": image[None], "gauges": gauges[None], "state": state, "elapsed": np.ones(1, np.float32)}
            controls, state = session.run(None, given)
        expected = driver.act(observation)
        assert driver.state is not None
        found = abs(controls[0] - expected).max(), abs(state - driver.state.numpy()).max()
        differences = np.maximum(differences, found)
        observation, reward, terminated, truncated, information = env.step(controls[0])
        steps, score, over = steps + 1, score + float(reward), terminated or truncated
    lap = "complete" if information.get("lap_finished") else "lost"
    return [str(steps), f"{score:.1f}", lap, f"{differences[0]:.1e}", f"{differences[1]:.1e}"]


if __name__ == "__main__":
    command.run(lambda _: main())
