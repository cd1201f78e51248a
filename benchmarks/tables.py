"""The tables in README and docs: scores, from the files of the shipped checkpoints, and shifts, from their own table.

python benchmarks/tables.py             # prints them
python benchmarks/tables.py --write     # writes them into the pages, between <!-- table: NAME --> and <!-- end -->
python benchmarks/tables.py --again     # evaluates every checkpoint first, four minutes each on two cores
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.shifts import SHIFTS
from liquid_control.support import command

ROOT = Path(__file__).parent.parent
CAR_RACING = (
    "cfc",
    "cfc-robust",
    "cfc-wide",
    "ltc",
    "lan",
    "leaky",
    "plastic",
    "lstm",
    "gru",
    "mlp",
    "hybrid",
    "cfc-tuned",
    "cfc-ppo",
)
"""The order of the rows; a driver that is not shipped has none."""
UDACITY = ("cfc", "lan")
PUBLISHED = (("World Models", "906 ± 21"), ("AttentionAgent", "914 ± 15"))
"""Scores that others have published, over 100 episodes (Ha and Schmidhuber 2018; Tang et al. 2020)."""
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(environment: str, driver: str) -> tuple[dict[str, Any], Any]:
    """The config of a shipped checkpoint, and the summary of its evaluation."""
    folder = ROOT / "checkpoints" / environment / driver
    config, evaluation = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "evaluation"))
    return config, evaluation["summary"]


def shipped(environment: str, order: Sequence[str]) -> list[str]:
    """The names in ``order`` that are shipped, for example cfc."""
    return [name for name in order if (ROOT / "checkpoints" / environment / name).is_dir()]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, with a line's end after each row."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def score(summary: dict[str, Any]) -> str:
    """Mean and standard deviation of the episodes."""
    return f"{summary['mean']:.1f} ± {summary['std']:.1f}"


def teacher(config: dict[str, Any]) -> str:
    """What a driver has learned from, in words."""
    job = config["record"]["job"]
    if job["agent"] != "ppo":
        return "an expert"
    return "an expert, then reward" if job["init"] else "reward alone"


def trained(config: dict[str, Any]) -> str:
    """Minutes and frames of a training."""
    record = config["record"]
    return f"{record['seconds'] / 60:.1f} min, {record['frames']:,} frames"


def car_racing() -> str:
    """All shipped drivers of CarRacing-v3."""
    head = ("driver", "neurons", "parameters: eyes, core, all", "learned from", "score", "minimum")
    head += ("IQM, 95 % interval", "laps", "trained")
    rows = []
    for name in shipped("CarRacing-v3", CAR_RACING):
        config, summary = read("CarRacing-v3", name)
        counts, (low, high) = config["parameters"], summary["iqm_interval"]
        rows.append(
            (
                name,
                str(config["neurons"]),
                ", ".join(f"{counts[part]:,}" for part in ("eyes", "core", "total")),
                teacher(config),
                score(summary),
                f"{summary['minimum']:.1f}",
                f"{summary['iqm']:.1f} ({low:.1f} to {high:.1f})",
                f"{summary['laps']}/{summary['episodes']}",
                trained(config),
            )
        )
    return markdown(head, rows)


def front() -> str:
    """Five rows for the first page: what is ours, and what others have published."""
    rows = []
    for name in ("cfc", "ltc", "cfc-ppo"):
        config, summary = read("CarRacing-v3", name)
        size = f"{config['neurons']} neurons, {config['parameters']['total']:,} parameters"
        minutes = f"{config['record']['seconds'] / 60:.0f} min"
        rows.append((f"`{name}`", size, teacher(config), minutes, f"**{score(summary)}**"))
    rows += [(name, "", "", "", published) for name, published in PUBLISHED]
    return markdown(("driver", "size", "learned from", "trained", "score"), rows)


def tuning() -> str:
    """The cloned driver, and the same driver after PPO."""
    rows = []
    for name, told in (("cfc", "the clone, `cfc`"), ("cfc-tuned", "tuned by PPO, `cfc-tuned`")):
        _, summary = read("CarRacing-v3", name)
        laps = f"{summary['laps']}/{summary['episodes']}"
        rows.append((told, score(summary), f"{summary['minimum']:.1f}", laps, f"{summary['steps']:.0f}"))
    return markdown(("driver", "score", "minimum", "laps", "frames per episode"), rows)


def udacity() -> str:
    """The shipped drivers of the Udacity simulator, on roads of the stand-in."""
    head = ("driver", "neurons", "parameters", "laps", "departures at 15 mph", "at 25 mph")
    head += ("root mean square from the middle", "farthest", "trained")
    rows = []
    for name in shipped("Udacity", UDACITY):
        config, (slow, fast) = read("Udacity", name)
        rows.append(
            (
                name,
                f"{config['neurons']}, one steers",
                f"{config['parameters']['total']:,}",
                f"{slow['laps']:g} and {fast['laps']:g}",
                str(slow["departures"]),
                str(fast["departures"]),
                f"{max(slow['rms'], fast['rms']):.2f} m",
                f"{max(slow['farthest'], fast['farthest']):.2f} m",
                trained(config),
            )
        )
    return markdown(head, rows)


def shifts() -> str:
    """All distribution shifts."""
    rows = [
        (f"`{name}`", info.family, info.line.rstrip("."), ", ".join(info.environments)) for name, info in SHIFTS.items()
    ]
    return markdown(("shift", "family", "what it does", "for"), rows)


def under_shift(suite: str) -> str:
    """What drivers did in a suite: each shift a row, each policy a column.

    Args:
        suite: name of a file of docs/results/shift, the summary.json that ``evaluate --suite`` wrote, of one severity.
    """
    told = json.loads((ROOT / "docs/results/shift" / f"{suite}.json").read_text())
    policies = [each["policy"] for each in told["policies"]]
    rows: dict[str, list[str]] = {}
    for cell in told["cells"]:
        low, high = cell["interval"]
        numbers = [f"{cell['mean']:.1f}".replace("-", "−"), f"{cell['laps']}/{cell['episodes']}"]
        if len(policies) == 1:
            numbers[1:1] = [f"{cell['std']:.1f}", f"{cell['iqm']:.1f} ({low:.1f} to {high:.1f})"]
        rows.setdefault(cell["shift"], [f"`{cell['shift']}`"]).extend(numbers)
    one = ("shift", "score", "± std", "IQM, 95 % interval", "laps")
    head = one if len(policies) == 1 else ("shift", *(text for name in policies for text in (f"`{name}`", "laps")))
    return markdown(head, list(rows.values()))


def shift_study() -> str:
    """What the study of cores came to: each core and training a row, means over the shifts of each family."""
    with gzip.open(ROOT / "docs/results/shift/study.json.gz", "rt") as file:
        told = json.load(file)
    families = list(dict.fromkeys(SHIFTS[cell["shift"]].family for cell in told["cells"] if cell["shift"] != "clean"))
    rows = []
    for policy in sorted(told["policies"], key=lambda policy: -policy["iqm"]):
        mine = [cell for cell in told["cells"] if cell["policy"] == policy["policy"] and cell["shift"] != "clean"]
        means = [
            np.mean([cell["mean"] for cell in mine if SHIFTS[cell["shift"]].family == family]) for family in families
        ]
        low, high = policy["interval"]
        core, training = policy["policy"].split("-")
        cells = [f"`{core}`", training, f"{policy['clean']:.0f}", f"{policy['iqm']:.0f} ({low:.0f} to {high:.0f})"]
        cells += [f"{mean:.0f}" for mean in (policy["mean"], *means)]
        cells += [f"{policy['laps']:.0%}", f"{policy['mce']:.0f}"]
        rows.append(tuple(text.replace("-", "−") for text in cells))
    head = ("core", "trained", "clean", "IQM of all shifts, 95 % interval", "mean", *families, "laps", "error, %")
    return markdown(head, rows)


def roads_under_shift() -> str:
    """What drivers did on roads under shifts: departures and touches a lap; shifts where all did the same are a row."""
    told = json.loads((ROOT / "docs/results/shift/udacity.json").read_text())
    policies = [each["policy"] for each in told["policies"]]
    found: dict[str, list[str]] = {}
    for cell in told["cells"]:
        found.setdefault(cell["shift"], []).append(f"{cell['departures']:g} and {cell['touches']:g}")
    alike: dict[tuple[str, ...], list[str]] = {}
    for shift, numbers in found.items():
        alike.setdefault(tuple(numbers), []).append(f"`{shift}`")
    rows = [(", ".join(shifts), *numbers) for numbers, shifts in alike.items()]
    return markdown(("shift", *(f"`{name}`" for name in policies)), rows)


TABLES = {
    "front": front,
    "car_racing": car_racing,
    "tuning": tuning,
    "udacity": udacity,
    "shifts": shifts,
    "shift_official": lambda: under_shift("official"),
    "shift_seeds": lambda: under_shift("seeds"),
    "shift_fast": lambda: under_shift("fast"),
    "shift_study": shift_study,
    "shift_roads": roads_under_shift,
}


def rewrite(text: str) -> str:
    """A page with its tables as the checkpoints have them now.

    Raises:
        KeyError: if the page has a table of another name than those of :data:`TABLES`.
    """
    return BLOCK.sub(lambda block: f"{block[1]}\n{TABLES[block[2]]()}\n{block[3]}", text)


def pages() -> Iterator[Path]:
    """The pages that may hold tables."""
    yield from (ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").rglob("*.md")))


def evaluate_again() -> None:
    """Writes the evaluation.json of every shipped checkpoint anew."""
    for environment, order in (("CarRacing-v3", CAR_RACING), ("Udacity", UDACITY)):
        for name in shipped(environment, order):
            folder = f"checkpoints/{environment}/{name}"
            subprocess.run([sys.executable, "-m", "liquid_control.evaluate", folder], cwd=ROOT, check=True)


def main() -> None:
    """Prints the tables, or writes them into the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into the pages")
    parser.add_argument("--again", action="store_true", help="evaluate every checkpoint first")
    arguments = parser.parse_args()
    if arguments.again:
        evaluate_again()
    if not arguments.write:
        for name, table in TABLES.items():
            print(f"{name}\n\n{table()}")
        return
    for page in pages():
        text = page.read_text()
        if (written := rewrite(text)) != text:
            page.write_text(written)
            print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    command.run(lambda _: main())
