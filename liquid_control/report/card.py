"""A checkpoint's card, with its scores, its training and its limits.

Everything in it is read from the checkpoint: config.json says what the driver is and how it was trained,
evaluation.json what it scored. The pictures, wiring.png and lap.gif, are drawn from the weights.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from agents.episodes import Episode
from agents.jobs import Job, find_job
from envs.registration import OFFICIAL
from liquid_control.report import road_card
from liquid_control.report.evaluation import EVALUATION_NAME, Evaluation
from liquid_control.report.road_evaluation import RoadEvaluation
from liquid_control.support.checkpoint import CARD_NAME, CONFIG_NAME, weights_digest
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.schema import validated
from policies.driver import Driver

BEFORE = {"variety": "none", "encoding": "rgb"}
"""Options that older records lack, and what they would have said."""
RECORD: dict[str, Any] = {
    "job": dict[str, Any],
    "versions": dict[str, str],
    "decisions": int,
    "frames": int,
    "gradient_steps": int,
    "round": int,
    "validation_score": float,
    "seconds": float,
    "machine": str,
}
"""What a card shows of a checkpoint's record; all of it may be missing."""
WIRING_NAME, LAP_NAME = "wiring.png", "lap.gif"
WORST = 5

TITLES = {
    "cfc": "Closed-form continuous-time neurons (CfC)",
    "ltc": "Liquid time-constant neurons (LTC)",
    "leaky": "Leaky neurons of adaptive time constants",
    "plastic": "Closed-form continuous-time neurons with plastic synapses",
    "scan": "Leaky neurons of adaptive time constants, without synapses among them",
    "lan": "Liquid attention (LAN)",
    "hybrid": "Hybrid transformer: attention to a window, with a liquid core in each block",
    "lstm": "Long short-term memory (LSTM), a baseline",
    "gru": "Gated recurrent unit (GRU), a baseline",
    "mlp": "Feed-forward net with frame stack (MLP), a baseline",
}

TEMPLATE = """\
# {title}

{summary}

{pictures}

## Scores

{scores}

{conditions}

## Use

```python
import liquid_control

driver = liquid_control.load_driver("{folder}")
action = driver.act(observation)  # after driver.reset(), on each raw observation of {env}
```

```sh
python -m liquid_control.evaluate {quoted}
{run}
```

## What it is made of

{parts}

## How it was trained

{training}

## Limits

{limits}
"""


def write_card(folder: Path, driver: Driver, evaluation: Evaluation | RoadEvaluation) -> None:
    """Writes the card of a checkpoint from what it says of itself; shows those of its pictures that are there.

    Args:
        folder: the checkpoint.
        driver: the driver that was loaded from it.
        evaluation: of that driver.

    Raises:
        UserError: as :func:`make_card`, or if the card cannot be written; an older one is then intact.
    """
    write_atomically(folder / CARD_NAME, make_card(folder, driver, evaluation))


def make_card(folder: Path, driver: Driver, evaluation: Evaluation | RoadEvaluation, drawn: Sequence[str] = ()) -> str:
    """The card's text.

    Args:
        folder: the checkpoint.
        driver: the driver that was loaded from it.
        evaluation: of that driver.
        drawn: names of pictures that will be there, beside those that are.

    Raises:
        UserError: if the evaluation is of other weights, or the record of the training is damaged.
    """
    check_same_weights(folder, driver, evaluation)
    record, quoted = _read_record(folder), shlex.quote(folder.as_posix())
    if isinstance(evaluation, RoadEvaluation):
        command = f"python drive.py {quoted} --speed 15 --view"
        told = road_card.summary(driver, evaluation), road_card.conditions(evaluation), road_card.limits(evaluation)
    else:
        command = f"python -m liquid_control.watch {quoted} --video lap.mp4"
        variety = str(record.get("job", {}).get("variety", "none"))
        told = _summary(driver, evaluation), _conditions(evaluation), _limits(evaluation, variety)
    summary, conditions, limits = told
    return TEMPLATE.format(
        title=f"{TITLES.get(driver.config.policy, driver.config.policy)} on {driver.config.env}",
        summary=summary,
        pictures=_pictures(folder, drawn),
        scores=_table(("measure", "value"), evaluation.rows()),
        conditions=conditions,
        folder=folder.as_posix(),
        quoted=quoted,
        env=driver.config.env,
        run=command,
        parts=_parts(driver),
        training=_training(record),
        limits=limits,
    )


def _read_record(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of its training.

    Raises:
        UserError: if something in it is not what a training writes.
    """
    what = f"the record of the training in {folder / CONFIG_NAME}"
    told = json.loads((folder / CONFIG_NAME).read_text()).get("record", {})
    record: dict[str, Any] = validated(dict[str, Any], told, what)
    record |= {name: validated(RECORD[name], record[name], f"{name} of {what}") for name in RECORD if name in record}
    job = record.get("job", {})
    try:
        config = _job(job).config
    except UserError as error:
        raise UserError(f"job of {what} is wrong: {error}") from None
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        if field.name in job:
            validated(hints[field.name], job[field.name], f"job.{field.name} of {what}")
    return record


def check_same_weights(folder: Path, driver: Driver, evaluation: Evaluation | RoadEvaluation) -> None:
    """Compares the weights that were judged with the driver's.

    Raises:
        UserError: if they differ; says how to judge these.
    """
    if evaluation.weights != weights_digest(driver):
        raise UserError(
            f"the evaluation in {folder} is of other weights. Evaluate again: "
            f"python -m liquid_control.evaluate {shlex.quote(str(folder))}"
        )


def _summary(driver: Driver, evaluation: Evaluation) -> str:
    numbers = evaluation.summary()
    return (
        f"{driver.core.neuron_count} neurons and {driver.parameter_counts()['total']:,} parameters in all drive "
        f"{evaluation.env} from pixels: **{numbers['mean']:.1f} ± {numbers['std']:.1f}** over {numbers['episodes']} "
        f"test episodes, {numbers['laps']} of {numbers['episodes']} laps completed."
    )


def _pictures(folder: Path, drawn: Sequence[str]) -> str:
    pictures = ((LAP_NAME, "a lap, the neurons at work beside it"), (WIRING_NAME, "the network"))
    return "\n\n".join(f"![{text}]({name})" for name, text in pictures if name in drawn or (folder / name).exists())


def _conditions(evaluation: Evaluation) -> str:
    seeds = [episode.seed for episode in evaluation.episodes]
    versions = ", ".join(f"{name} {version}" for name, version in evaluation.versions.items())
    official = "the official environment" if evaluation.env == OFFICIAL else "**not** the official environment"
    return (
        f"Measured in {evaluation.env}, {official}, on seeds {min(seeds)} to {max(seeds)}. None of them was used in "
        f"training or to choose the checkpoint. IQM is the mean of the middle half of the scores; its interval is a "
        f"bootstrap over episodes. Every episode is in [{EVALUATION_NAME}]({EVALUATION_NAME}). Versions: {versions}."
    )


def _parts(driver: Driver) -> str:
    counts = driver.parameter_counts()
    height, width = driver.config.playfield
    core = f"{driver.config.policy}, {driver.core.neuron_count} neurons"
    options = ", ".join(f"{name}={value}" for name, value in driver.config.options.items())
    gauges, seen = len(driver.view.gauges), "the road ahead" if driver.cruise else "the playfield"
    return _table(
        ("part", "what", "parameters"),
        [
            (
                "eyes",
                f"{len(driver.config.channels)} convolutions on {seen} at {height} × {width}, "
                f"{driver.config.features} features"
                + (f"; {gauges} gauges are read from the pixels" if gauges else ""),
                f"{counts['eyes']:,}",
            ),
            ("core", core + (f" ({options})" if options else ""), f"{counts['core']:,}"),
            ("hands", _hands(driver), f"{counts['hands']:,}"),
            ("total", "", f"{counts['total']:,}"),
        ],
    )


def _hands(driver: Driver) -> str:
    config = driver.config
    motors = "steer, one pedal for gas and brake" if config.pedals else ", ".join(driver.view.controls)
    bound = "" if config.bound == "clip" else "; tanh keeps the controls within their range"
    pedal = "; a controller of the speed sets the pedal" if driver.cruise else ""
    lasts = f"; an action lasts {config.action_repeat} environment steps" if config.action_repeat > 1 else ""
    return f"a gain and an offset per motor neuron ({motors}){bound}{pedal}{lasts}"


def _training(record: Mapping[str, Any]) -> str:
    if not record:
        return "The checkpoint has no record of its training."
    job = record.get("job", {})
    lines = [f"```sh\n{training_command(job)}\n```\n"] if job else []
    told = _job(job).tell(job)
    if told:
        lines.append(f"{told}\n")
    facts = (
        ("decisions", "decisions", "{:,}"),
        ("frames seen", "frames", "{:,}"),
        ("gradient steps", "gradient_steps", "{:,}"),
        ("chosen after round", "round", "{}"),
        ("validation score", "validation_score", "{:.1f}"),
        ("seconds until then", "seconds", "{:,.0f}"),
        ("machine", "machine", "{}"),
    )
    rows = [(text, form.format(record[name])) for text, name, form in facts if name in record]
    rows += [("processes", str(job["workers"]))] if "workers" in job else []
    rows += [("versions", ", ".join(f"{name} {value}" for name, value in record.get("versions", {}).items()))]
    return "\n".join([*lines, _table(("what", "value"), rows)])


def training_command(job: Mapping[str, Any]) -> str:
    """The command that makes a checkpoint again, from its ``record["job"]``: what differs from the defaults."""
    kind = _job(job)
    env = str(job.get("env", OFFICIAL))
    words = ["python", "-m", "liquid_control.train", *kind.words(str(job.get("agent", "")), env)]
    elsewhere = {"env", "agent", "demos", "run", "resume", "workers", "threads", "data"}
    for field in dataclasses.fields(kind.config):
        value = job.get(field.name, BEFORE.get(field.name, field.default))
        value = tuple(value) if isinstance(value, list) else value
        if field.name not in elsewhere and value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            words += ["--" + field.name.replace("_", "-"), *map(str, values)]
    if job.get("demos"):
        words += ["--demos", str(job["demos"])]
    if job.get("data"):
        words += ["--data", Path(job["data"]).name]
    return shlex.join(words)


def _job(job: Mapping[str, Any]) -> Job:
    return find_job(str(job.get("agent", "")), str(job.get("env", "")))


def _limits(evaluation: Evaluation, variety: str) -> str:
    worst = sorted(evaluation.episodes, key=lambda episode: episode.score)[:WORST]
    lost = [episode for episode in evaluation.episodes if not episode.lap]
    if lost:
        seeds = ", ".join(str(episode.seed) for episode in lost[:20])
        were, seed = ("was", "seed") if len(lost) == 1 else ("were", "seeds")
        laps = f"{len(lost)} of {len(evaluation.episodes)} laps {were} not completed ({seed} {seeds})."
    else:
        laps = f"All {len(evaluation.episodes)} laps were completed."
    rows = [
        (str(episode.seed), f"{episode.score:.1f}", f"{episode.tiles:.1%}", f"{episode.off_road:.1%}", _ending(episode))
        for episode in worst
    ]
    table = _table(("seed", "score", "share of tiles", "time off the road", "lap"), rows)
    return (
        f"{laps} A lap with a missed tile never ends: the episode goes on until step 1000 and costs its points. The "
        f"worst episodes (`watch --seed` shows them):\n\n{table}\n\n{_other_conditions(variety)}"
    )


def _other_conditions(variety: str) -> str:
    if variety == "none":
        return (
            "The driver was trained and scored with the default colours and friction. Its scores do not hold for "
            "`domain_randomize=True`, another frame rate or a changed picture."
        )
    return (
        f"What the driver saw in training was varied (`--variety {variety}`), the car and its road were not. "
        "It was scored with the default colours; `evaluate --suite shift` tells what it scores under others."
    )


def _ending(episode: Episode) -> str:
    return f"{episode.steps} steps" if episode.lap else f"not completed, {episode.steps} steps"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
