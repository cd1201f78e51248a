"""The processes that episodes are driven in, and what else is to be done side by side."""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from agents.episodes import Conditions, Episode, EpisodePlan, drive_episode
from agents.workers import begin_worker, starting_worker, worker_context
from liquid_control.support.errors import UserError
from policies.driver import Driver
from policies.precompile import precompile_tick


def _call(task: bytes) -> Any:
    function, arguments = pickle.loads(task)
    return function(*arguments)


def _next(ended: SimpleQueue[Future[Any]]) -> Future[Any]:
    """The next that has ended.

    A signal that comes just as this process begins to wait, or that reaches another of its threads, is heard when the
    wait ends: so no wait is long. And no lock of a future is held meanwhile, as `concurrent.futures.wait` holds many:
    a stop amid would leave some taken, and the pool would never close.
    """
    while True:
        with contextlib.suppress(Empty):
            return ended.get(timeout=0.5)


@contextlib.contextmanager
def _death_told() -> Iterator[None]:
    """That a process of the pool has died becomes an error that says what to do."""
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "a rollout process died (out of memory, or killed). What was saved is intact: "
            "start again, or continue a training with --resume; fewer --workers need less memory."
        ) from error


class EpisodePool(Protocol):
    """Whatever drives episodes: processes of this machine, or those of a cluster."""

    def drive(self, driver: Driver, plans: Sequence[EpisodePlan], conditions: Conditions) -> list[Episode]:
        """:func:`drive_episode` for every plan; the result has their order."""


class RolloutPool:
    """Processes that drive episodes; as a context manager it closes them.

    Args:
        workers: how many; each uses one core.
    """

    def __init__(self, workers: int):
        if workers < 1:
            raise UserError(f"workers must be at least 1, not {workers}.")
        self.workers = workers
        self._executor = ProcessPoolExecutor(workers, mp_context=worker_context(), initializer=begin_worker)

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the processes without waiting for what they drive."""
        for process in list((self._executor._processes or {}).values()):
            process.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def map(
        self,
        function: Callable[..., Any],
        shares: Iterable[tuple[Any, ...]],
        done: Callable[[], None] | None = None,
    ) -> list[Any]:
        """Calls ``function(*share)`` for every share in the pool; results in the order of the shares.

        Args:
            function: of a module, so that a process finds it.
            shares: its arguments.
            done: called in this process as each ends.
        """
        return self._in_order(function, shares, lambda _: done() if done is not None else None)

    def start(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """Has one of the processes call ``function(*arguments)``; returns what waits for the result and gives it."""
        ended: SimpleQueue[Future[Any]] = SimpleQueue()
        future = self._submit(ended, function, *arguments)
        return lambda: self._result(future if future.done() else _next(ended))

    def drive(
        self,
        driver: Driver,
        plans: Sequence[EpisodePlan],
        conditions: Conditions,
        done: Callable[[Episode], None] | None = None,
    ) -> list[Episode]:
        """:func:`drive_episode` for every plan, each whenever a process is free; no result depends on which.

        Args:
            driver: what drives.
            plans: the episodes; the result has their order.
            conditions: what they have in common.
            done: called in this process with each episode as it ends, in no fixed order.
        """
        precompile_tick(driver)  # or each process would, at the same time
        shares = ((driver, plan, conditions) for plan in plans)
        return self._in_order(drive_episode, shares, done or (lambda _: None))

    def map_as_completed(
        self, function: Callable[..., Any], shares: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Calls ``function(*share)`` for every share in the pool; results as they come.

        Only a few shares are handed out ahead: ten thousand drivers at once would fill the memory.

        Args:
            function: of a module, so that a process finds it.
            shares: its arguments.

        Yields:
            The place among the shares, counted from 0, and the result.
        """
        waiting, pending = enumerate(shares), dict[Future[Any], int]()
        ended: SimpleQueue[Future[Any]] = SimpleQueue()
        while True:
            for index, share in itertools.islice(waiting, 2 * self.workers - len(pending)):
                pending[self._submit(ended, function, *share)] = index
            if not pending:
                return
            future = _next(ended)
            yield pending.pop(future), self._result(future)

    def _in_order(
        self, function: Callable[..., Any], shares: Iterable[tuple[Any, ...]], done: Callable[[Any], None]
    ) -> list[Any]:
        """Results in the order of the shares; ``done`` is called with each as it comes."""
        results: dict[int, Any] = {}
        for index, result in self.map_as_completed(function, shares):
            results[index] = result
            done(result)
        return [results[index] for index in range(len(results))]

    def _submit(self, ended: SimpleQueue[Future[Any]], function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Has one of the processes call ``function(*arguments)``; what comes of it is in ``ended`` then, too."""
        # Pickled here, tensors go as their values. The executor would send file descriptors of shared memory, which
        # the worker fetches from a thread of this process; a worker that is stopped meanwhile makes that thread print.
        task = pickle.dumps((function, arguments))
        with starting_worker(), _death_told():  # the executor starts one where none is idle
            future = self._executor.submit(_call, task)
            future.add_done_callback(ended.put)
            return future

    @staticmethod
    def _result(future: Any) -> Any:
        with _death_told():
            return future.result()
