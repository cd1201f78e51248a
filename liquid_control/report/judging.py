"""How a driver is judged: by what its view says, in episodes of its environment or on roads of the stand-in."""

from __future__ import annotations

import shlex
from pathlib import Path

from envs.registration import STAND_IN, TEST_SEEDS
from liquid_control.report.evaluation import EVALUATION_NAME, Evaluation, evaluate
from liquid_control.report.road_evaluation import RoadEvaluation, evaluate_on_roads, unseen_tracks
from liquid_control.support.errors import UserError
from policies.driver import Driver


def scoreboard(driver: Driver) -> str:
    """The environment that a driver is judged in."""
    return driver.view.scoreboard or driver.config.env


def judge(driver: Driver, count: int, workers: int) -> Evaluation | RoadEvaluation:
    """Judges a driver on test seeds, that nothing was learned or chosen on.

    Args:
        driver: what drives.
        count: episodes, or roads.
        workers: processes that drive.
    """
    if scoreboard(driver) == STAND_IN:
        return evaluate_on_roads(driver, unseen_tracks(count), workers)
    return evaluate(driver, range(TEST_SEEDS, TEST_SEEDS + count), workers, scoreboard(driver))


def read_evaluation(folder: Path, driver: Driver) -> Evaluation | RoadEvaluation:
    """The evaluation that stands beside a driver's checkpoint.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    path = folder / EVALUATION_NAME
    try:
        return (RoadEvaluation if scoreboard(driver) == STAND_IN else Evaluation).from_json(path.read_text())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError):
        evaluate = f"python -m liquid_control.evaluate {shlex.quote(str(folder))}"
        raise UserError(f"cannot read {path}. Evaluate first: {evaluate}") from None
