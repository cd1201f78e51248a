"""Trials on this machine, in processes of their own: one that dies takes nothing with it."""

from __future__ import annotations

import contextlib
import signal
import sys
from multiprocessing.connection import Connection, wait
from pathlib import Path

from agents.pool import RolloutPool
from agents.ppo import PPOConfig
from agents.workers import begin_worker, starting_worker, worker_context
from liquid_control.tuning.trial import Failed, Message, Scored, run_trial


class LocalEngine:
    """Runs trials in processes of this machine; see `liquid_control.tuning.trial.Engine`.

    Args:
        places: trials that run side by side.
        cpus: processors that a trial takes.
    """

    def __init__(self, places: int, cpus: int):
        self.places = places
        self._cpus = cpus
        self._idle: list[_Worker] = []
        self._running: dict[int, _Worker] = {}

    def start(self, trial: int, config: PPOConfig, path: Path) -> None:
        """Begins a trial."""
        worker = self._idle.pop() if self._idle else _Worker(self._cpus)
        worker.pipe.send((trial, config, path))
        self._running[trial] = worker

    def wait(self) -> Message:
        """The next thing that a trial has to tell."""
        pipes = [worker.pipe for worker in self._running.values()]
        while not (told := wait(pipes, timeout=0.5)):  # a stop that reached another thread is heard between two waits
            pass
        ready = told[0]
        trial, worker = next(item for item in self._running.items() if item[1].pipe is ready)
        try:
            message: Message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.end()
            message = Failed(
                trial, f"its process died with exit status {worker.process.exitcode} (out of memory, or killed)."
            )
        if isinstance(message, Scored):
            return message
        del self._running[trial]
        if isinstance(message, Failed):
            worker.end()  # who knows what a failed trial left behind
        else:
            self._idle.append(worker)
        return message

    def answer(self, trial: int, stop: bool) -> None:
        """Tells a trial that was scored whether to stop."""
        with contextlib.suppress(OSError):  # if it died meanwhile, the next wait says so
            self._running[trial].pipe.send(stop)

    def close(self) -> None:
        """Ends whatever runs."""
        for worker in [*self._running.values(), *self._idle]:
            worker.end()


class _Worker:
    """A process that runs one trial after the other, as loading torch takes longer than a short trial."""

    def __init__(self, cpus: int):
        context = worker_context()
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_work, args=(far, cpus))
        with starting_worker():
            self.process.start()
        far.close()  # now the pipe ends when the process does

    def end(self) -> None:
        """Ends the process; its own processes end with it."""
        self.process.terminate()
        self.process.join(timeout=10)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, cpus: int) -> None:
    begin_worker()
    # Asked to end, it leaves in order: what a trial holds (processes, semaphores) is given back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())

    def judge(scored: Scored) -> bool:
        pipe.send(scored)
        return pipe.recv()

    with RolloutPool(cpus) as pool:
        while True:
            trial, config, path = pipe.recv()
            pipe.send(run_trial(trial, config, path, pool, judge))
