"""The table of the shipped CarRacing drivers, from the evaluations that lie beside the checkpoints.

``--again`` evaluates every checkpoint once more first, which takes four minutes each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from envs.registration import OFFICIAL
from liquid_control.evaluate import main as evaluate
from liquid_control.report.evaluation import EVALUATION_NAME, Evaluation
from policies.driver import load_driver

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints" / OFFICIAL
ORDER = ("cfc", "ltc", "lan", "leaky", "plastic", "lstm", "gru", "mlp", "cfc-tuned", "cfc-ppo")


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="evaluate every checkpoint first")
    again = parser.parse_args().again
    print("| driver | neurons | parameters: eyes, core, all | score | minimum | IQM, 95 % interval | laps | trained |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in (CHECKPOINTS / name for name in ORDER if (CHECKPOINTS / name).exists()):
        if again:
            evaluate([str(folder)])
        evaluation = Evaluation.from_json((folder / EVALUATION_NAME).read_text())
        driver, record = load_driver(folder), json.loads((folder / "config.json").read_text())["record"]
        counts, summary, rows = driver.parameter_counts(), evaluation.summary(), dict(evaluation.rows())
        cells = (
            folder.name,
            str(driver.core.neuron_count),
            f"{counts['eyes']:,}, {counts['core']:,}, {counts['total']:,}",
            rows["score, mean ± std"],
            f"{summary['minimum']:.1f}",
            rows["IQM, 95 % interval"],
            rows["completed laps"],
            f"{record['seconds'] / 60:.1f} min, {record['frames']:,} frames",
        )
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
