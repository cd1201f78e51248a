"""The study: Optuna chooses options, prunes and remembers; its database in the study's folder survives any kill.

::

    study.yaml  base.yaml  what is searched, and the training that it varies
    study.db               every trial, its options and scores; SQLite, so that a kill costs at most one write
    trials/0007/           the run folder of trial 7
    report.md  best.yaml   what came of it so far; ``train --config`` reads the second

Trial number n draws its random numbers from (seed, n). So a study that runs one trial at a time and is killed ends
with the same trials as an unbroken one: those that a kill interrupted are marked failed and done again with the same
options, and count once.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from agents.ppo import PPOConfig
from liquid_control.support.command import write_yaml
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.tuning.space import Space
from liquid_control.tuning.trial import JOB, Ended, Engine, Failed, Scored

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what a study has to tell, it tells itself

REASON = "reason"
"""Attribute of a trial that failed. One that a kill interrupted had no time to leave it."""
REPORT_NAME, BEST_NAME = "report.md", "best.yaml"
DATABASE, TRIALS = "study.db", "trials"
SHOWN = 10
"""Trials in the report's table."""
IMPORTANCE_FROM = 10
"""Trials that ended, below which importances are noise."""
TRIED = 20
"""Combinations that are looked at before a study begins."""


def check_space(base: PPOConfig, space: Space, seed: int, folder: Path) -> None:
    """Draws combinations as a search does until one passes what the job checks before it begins.

    Args:
        base: the training that is varied.
        space: what the search may choose.
        seed: of the draws.
        folder: of the study.

    Raises:
        UserError: if none of :data:`TRIED` passes; says why the first does not.
    """
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    reasons: list[str] = []
    while len(reasons) < TRIED:
        trial = drawn.ask()
        for name, options in space.items():
            options.suggest(trial, name)
        try:
            JOB.begin(_varied(base, space, trial), folder, 1)
        except UserError as error:
            reasons.append(str(error))
        else:
            return
    raise UserError(f"none of {TRIED} combinations of --search can be trained. The first of them: {reasons[0]}")


def check_database(folder: Path) -> None:
    """Looks whether a folder with trials has the database that tells of them.

    Raises:
        UserError: if it has none: their run folders are in the way of new trials.
    """
    if (folder / TRIALS).exists() and not (folder / DATABASE).exists():
        raise UserError(
            f"{folder} holds trials, but no {DATABASE} that tells of them: restore it, or begin a study in another "
            "folder."
        )


def _varied(base: PPOConfig, space: Space, trial: FrozenTrial | optuna.Trial) -> PPOConfig:
    """The training of a trial."""
    return dataclasses.replace(base, **{name: space[name].value(value) for name, value in trial.params.items()})


class Study:
    """Many trainings that differ in what the search may choose.

    Pruning is the median rule: after every validation a trial whose best score so far is below the median of what
    the others had scored after as many decisions is stopped. It has no budget to be set in advance, as successive
    halving has, whose first rung would have to be guessed anew for every environment.

    Args:
        folder: the study's folder; what it holds is continued.
        base: the training that is varied.
        space: what the search may choose.
        seed: of the search.
        startup: trials that must have ended before any is pruned.
        warm_up: share of the training before which no trial is pruned.

    Raises:
        UserError: if the database cannot be read or written.
    """

    def __init__(self, folder: Path, base: PPOConfig, space: Space, seed: int, startup: int, warm_up: float):
        self.folder, self.base, self.space, self.seed = folder, base, space, seed
        pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=math.ceil(warm_up * base.steps))
        try:
            self._study = optuna.create_study(
                storage=f"sqlite:///{(folder / DATABASE).absolute()}",
                study_name="study",
                direction="maximize",
                pruner=pruner,
                load_if_exists=True,
            )
            self._do_interrupted_again()
        except (OptunaError, SQLAlchemyError) as error:
            raise UserError(f"{folder / DATABASE} cannot be used: {_cause(error)}") from None

    def run(self, engine: Engine, trials: int, cpus: int, tell: Callable[[str], None]) -> None:
        """Runs what is left of so many trials.

        Args:
            engine: where they run.
            trials: of the whole study, however they end.
            cpus: processors of a trial.
            tell: takes a line of news.

        Raises:
            UserError: if no trial came to its end, or something cannot be written.
        """
        running: dict[int, optuna.Trial] = {}
        try:
            while True:
                while len(running) < engine.places and len(self._counted()) < trials:
                    self._start(engine, running, cpus, tell)
                if not running:
                    break
                message = engine.wait()
                if isinstance(message, Scored):
                    trial = running[message.trial]
                    trial.report(message.score, message.decisions)
                    engine.answer(message.trial, trial.should_prune())
                else:
                    self._end(running.pop(message.trial), message, tell)
        except (OptunaError, SQLAlchemyError) as error:
            raise UserError(f"{self.folder / DATABASE} cannot be used: {_cause(error)}") from None
        self.report()
        failed = [trial for trial in self._in_state(TrialState.FAIL) if REASON in trial.user_attrs]
        if failed and not self._in_state(TrialState.COMPLETE):
            raise UserError(f"no trial has finished. Trial {failed[0].number}: {failed[0].user_attrs[REASON]}")

    def _do_interrupted_again(self) -> None:
        for trial in self._in_state(TrialState.RUNNING):
            if REASON not in trial.user_attrs:
                self._study.enqueue_trial(trial.params)
            self._study.tell(trial.number, state=TrialState.FAIL)

    def _start(self, engine: Engine, running: dict[int, optuna.Trial], cpus: int, tell: Callable[[str], None]) -> None:
        seed = int(np.random.SeedSequence([self.seed, len(self._counted())]).generate_state(1)[0])
        # While others run they count as bad ones, so that trials side by side are not all alike.
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=engine.places > 1)
        trial = self._study.ask()
        for name, options in self.space.items():
            options.suggest(trial, name)
        path = self.folder.absolute() / TRIALS / f"{trial.number:04d}"
        try:
            config = JOB.begin(dataclasses.replace(self._config(trial), workers=cpus, threads=cpus), path, cpus)
        except UserError as error:  # options that do not go together
            self._end(trial, Failed(trial.number, str(error)), tell)
            return
        running[trial.number] = trial
        engine.start(trial.number, config, path)

    def _end(self, trial: optuna.Trial, message: Ended | Failed, tell: Callable[[str], None]) -> None:
        if isinstance(message, Ended) and not math.isfinite(message.best_score):
            message = Failed(message.trial, "no validation of it had a score that is a number.")
        told = f"trial {trial.number} ({' '.join(f'{name}={_short(value)}' for name, value in trial.params.items())})"
        if isinstance(message, Failed):
            trial.set_user_attr(REASON, message.reason)
            self._study.tell(trial, state=TrialState.FAIL)
            tell(f"{told} failed: {message.reason}")
        elif message.stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
            tell(f"{told} pruned: {message.best_score:.1f}")
        else:
            self._study.tell(trial, message.best_score)
            best = self._study.best_trial
            tell(f"{told}: {message.best_score:.1f}, best {best.value:.1f} of trial {best.number}")
        self.report()

    def _config(self, trial: FrozenTrial | optuna.Trial) -> PPOConfig:
        return _varied(self.base, self.space, trial)

    def _in_state(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _interrupted(self) -> list[FrozenTrial]:
        return [trial for trial in self._in_state(TrialState.FAIL) if REASON not in trial.user_attrs]

    def _counted(self) -> list[FrozenTrial]:
        """The trials begun, each once however often it was interrupted."""
        begun = self._in_state(*(state for state in TrialState if state is not TrialState.WAITING))
        interrupted = {trial.number for trial in self._interrupted()}
        return [trial for trial in begun if trial.number not in interrupted]

    # What came of it

    def report(self) -> None:
        """Writes ``report.md`` and, once a trial came to its end, ``best.yaml``."""
        complete = sorted(self._in_state(TrialState.COMPLETE), key=lambda trial: -(trial.value or 0.0))
        if complete:
            write_atomically(self.folder / BEST_NAME, write_yaml(self._config(complete[0])))
        parts = [self._summary(complete), self._table(complete), self._importances(complete), self._failures()]
        write_atomically(self.folder / REPORT_NAME, "\n\n".join(part for part in parts if part) + "\n")

    def _summary(self, complete: list[FrozenTrial]) -> str:
        pruned, running = len(self._in_state(TrialState.PRUNED)), len(self._in_state(TrialState.RUNNING))
        again = len(self._interrupted())
        failed = len(self._in_state(TrialState.FAIL)) - again
        counts = f"{len(complete)} complete, {pruned} pruned, {failed} failed"
        counts += f", {running} running" if running else ""
        counts += f"; interrupted and done again: {again}" if again else ""
        base = self.base
        lines = [
            f"# A search in {base.env}",
            f"Trials: {counts}. A trial's score is its best validation: a mean return on seeds that nothing was "
            f"trained on, --validation-episodes {base.validation_episodes}.",
        ]
        if complete:
            lines += [
                f"The best is trial {complete[0].number}. It was chosen by its score, so the score flatters it, and "
                f"all trials were trained with seed {base.seed}: train it with other seeds before you believe it.",
                "```bash\npython -m liquid_control.train --config "
                f"{shlex.quote(str(self.folder / BEST_NAME))} --seed {base.seed + 1}\n```",
            ]
        return "\n\n".join(lines)

    def _table(self, complete: list[FrozenTrial]) -> str:
        if not complete:
            return ""
        rows = [["trial", "score", "decisions", "minutes", *self.space]]
        rows.append(["---"] * len(rows[0]))
        for trial in complete[:SHOWN]:
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            numbers = [str(trial.number), f"{trial.value:.1f}", f"{max(trial.intermediate_values, default=0):,}"]
            chosen = [_short(trial.params[name]) for name in self.space]
            rows.append([*numbers, f"{seconds / 60:.1f}", *chosen])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _importances(self, complete: list[FrozenTrial]) -> str:
        if len(complete) < IMPORTANCE_FROM:
            return ""
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # the one that needs no scikit-learn
        shares = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        return f"What told the best tenth from the others (PED-ANOVA): {told}."

    def _failures(self) -> str:
        failed = [trial for trial in self._in_state(TrialState.FAIL) if REASON in trial.user_attrs]
        return "\n".join(f"- trial {trial.number} failed: {trial.user_attrs[REASON]}" for trial in failed)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cause(error: BaseException) -> str:
    """What SQLite said, below what Optuna and SQLAlchemy made of it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0]
