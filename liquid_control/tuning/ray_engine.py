"""Trials as tasks of a Ray cluster, the episodes of their validations as tasks of their own: Ray places them all.

:class:`RayCalls` is for whatever else is done side by side, such as the episodes of a suite.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import ray
import torch
from ray.exceptions import RayError

from agents.episodes import Conditions, Episode, EpisodePlan, drive_episode
from agents.ppo import PPOConfig
from liquid_control.support.errors import UserError
from liquid_control.support.reachable import check_ray
from liquid_control.tuning.trial import Ended, Failed, Message, Scored, run_trial
from policies.driver import Driver


class RayEngine:
    """Runs trials on a Ray cluster; see `liquid_control.tuning.trial.Engine`.

    Args:
        address: of a running cluster, or None: then a Ray of this machine's own is begun, and ended by :meth:`close`.
        places: trials that run side by side; 0 means as many as the cluster has processors for.
        cpus: processors that a trial takes.
        own_cpus: processors of this machine's own Ray.

    Raises:
        UserError: if there is no cluster at that address, or none of its machines has that many processors.
    """

    def __init__(self, address: str | None, places: int, cpus: int, own_cpus: int):
        sizes = _begin_ray(address, (places or own_cpus // cpus or 1) * cpus)
        self.places = places or sum(size // cpus for size in sizes)
        if max(sizes) < cpus:
            ray.shutdown()
            raise UserError(
                f"a trial takes {cpus} processors and no machine of the cluster has more than {max(sizes)}."
            )
        self._cpus = cpus
        self._desk = _Desk.remote()  # type: ignore[attr-defined]
        self._next = self._desk.next.remote()
        self._running: dict[Any, int] = {}

    def start(self, trial: int, config: PPOConfig, path: Path) -> None:
        """Begins a trial."""
        # Not retried: whether a trial that died is worth another try is the search's business.
        task = _run.options(num_cpus=self._cpus, max_retries=0)
        self._running[task.remote(trial, config, path, self._desk)] = trial

    def wait(self) -> Message:
        """The next thing that a trial has to tell."""
        ready, _ = ray.wait([self._next, *self._running], num_returns=1)
        if ready[0] == self._next:
            try:
                scored: Scored = ray.get(self._next)
            except RayError as error:
                raise UserError(f"the Ray cluster is lost: {_first_line(error)}") from None
            self._next = self._desk.next.remote()
            return scored
        trial = self._running.pop(ready[0])
        try:
            return ray.get(ready[0])
        except RayError as error:
            return Failed(trial, f"its Ray worker died: {_first_line(error)}")

    def answer(self, trial: int, stop: bool) -> None:
        """Tells a trial that was scored whether to stop."""
        self._desk.answer.remote(trial, stop)

    def close(self) -> None:
        """Leaves the cluster, which ends whatever runs."""
        ray.shutdown()


def _begin_ray(address: str | None, own_cpus: int) -> list[int]:
    """Joins a cluster, or begins one on this machine; returns how many processors each of its machines has."""
    if address:
        check_ray(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers unless told not to
    # Ray ends a process that has been idle for a second if there are more than processors. What drives a validation
    # would end before the next one, which would load torch again.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(3_600_000))
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else own_cpus,
            include_dashboard=None if address else False,
            # What goes wrong in a trial is told by its message.
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RayError, ValueError, RuntimeError) as error:
        hint = " A cluster that asks for a token wants RAY_AUTH_MODE=token." if address else ""
        raise UserError(f"no Ray at {address or 'this machine'}: {' '.join(str(error).split())}{hint}") from None
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def _first_line(error: RayError) -> str:
    return str(error).strip().partition("\n")[0]


@ray.remote(num_cpus=0)
class _Desk:
    """Where scores wait for the study, and its answers for the trials."""

    def __init__(self) -> None:
        self._scores: asyncio.Queue[Scored] = asyncio.Queue()
        self._answers: defaultdict[int, asyncio.Queue[bool]] = defaultdict(asyncio.Queue)

    async def judge(self, scored: Scored) -> bool:
        """A trial's score; returns whether it shall stop, once that is known."""
        await self._scores.put(scored)
        return await self._answers[scored.trial].get()

    async def next(self) -> Scored:
        """The score that has waited longest."""
        return await self._scores.get()

    async def answer(self, trial: int, stop: bool) -> None:
        """What the study says to a trial's score."""
        await self._answers[trial].put(stop)


@ray.remote
def _run(trial: int, config: PPOConfig, path: Path, desk: Any) -> Ended | Failed:
    return run_trial(trial, config, path, RayPool(), lambda scored: ray.get(desk.judge.remote(scored)))


class RayPool:
    """Drives episodes wherever the cluster has a processor left, the caller's own included while it waits."""

    def drive(self, driver: Driver, plans: Sequence[EpisodePlan], conditions: Conditions) -> list[Episode]:
        """The episodes in the order of the plans."""
        shared = ray.put(driver)  # once, however many machines fetch it
        return ray.get([_drive.remote(shared, plan, conditions) for plan in plans])


@ray.remote(num_cpus=1)
def _drive(driver: Driver, plan: EpisodePlan, conditions: Conditions) -> Episode:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return drive_episode(driver, plan, conditions)


class RayCalls:
    """Calls functions wherever a Ray cluster has a processor; as a context manager it leaves the cluster.

    Args:
        address: of a running cluster, or None: then a Ray of this machine's own is begun.
        own_cpus: processors of this machine's own Ray.

    Raises:
        UserError: if there is no cluster at that address.
    """

    def __init__(self, address: str | None, own_cpus: int):
        self.places = sum(_begin_ray(address, own_cpus))

    def __enter__(self) -> RayCalls:
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def map_as_completed(
        self, function: Callable[..., Any], shares: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """See `agents.pool.RolloutPool.map_as_completed`; what a machine lost is called again elsewhere.

        Raises:
            UserError: if the cluster is lost.
        """
        waiting, pending = enumerate(shares), dict[Any, int]()
        while True:
            for index, share in itertools.islice(waiting, 2 * self.places - len(pending)):
                pending[_call.remote(function, share)] = index
            if not pending:
                return
            (done,), _ = ray.wait(list(pending), num_returns=1)
            try:
                result = ray.get(done)
            except RayError as error:
                raise UserError(f"Ray lost what it was given: {_first_line(error)}") from None
            yield pending.pop(done), result


@ray.remote(num_cpus=1)
def _call(function: Callable[..., Any], share: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return function(*share)
