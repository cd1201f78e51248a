"""Processes that work for another."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver, spawn
from pathlib import Path

import pytest

from agents.pool import RolloutPool
from agents.workers import ONE_THREAD, starting_worker
from liquid_control.support.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def real_python() -> Iterator[None]:
    """What workers are forked from begins as it does for a user, not from the Python that has loaded torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawn, "_python_exe", os.fsencode(sys.executable))
        forkserver._forkserver._stop()
        yield
        forkserver._forkserver._stop()


def test_a_worker_has_one_thread_for_linear_algebra_and_its_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with RolloutPool(1) as pool:
        assert pool.map(os.getenv, [(name,) for name in ONE_THREAD]) == ["1"] * len(ONE_THREAD)
    assert (os.environ["OMP_NUM_THREADS"], os.getenv("OPENBLAS_NUM_THREADS")) == ("7", None)


def test_a_worker_is_deaf_to_ctrl_c_while_it_loads():
    with RolloutPool(1) as pool:
        answer = pool.start(os.getpid)
        (worker,) = pool._executor._processes
        os.kill(worker, signal.SIGINT)  # it has not begun to work
        assert answer() == worker


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_of_all_pools_are_forked_from_one_process_without_threads_that_is_deaf_to_ctrl_c():
    parents = []
    for _ in range(2):
        with RolloutPool(2) as pool:
            parents += pool.map(os.getppid, [(), ()])
    (parent,) = set(parents)
    assert parent != os.getpid()
    assert len(os.listdir(f"/proc/{parent}/task")) == 1
    (blocked,) = re.findall(r"SigBlk:\s*(\w+)", Path(f"/proc/{parent}/status").read_text())
    assert int(blocked, 16) >> (signal.SIGINT - 1) & 1


def test_ctrl_c_is_not_lost_and_leaves_everything_as_it_was(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(KeyboardInterrupt), starting_worker():
        signal.raise_signal(signal.SIGINT)
    assert "OMP_NUM_THREADS" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_worker_starts_is_heard_afterwards_whichever_thread_it_reaches(number):
    heard, order = [], []
    before = signal.signal(number, lambda *_: heard.append(list(order)))
    try:
        with ThreadPoolExecutor(1) as other:
            other.submit(os.getpid).result()  # begun here, it blocks nothing
            with starting_worker():
                other.submit(signal.raise_signal, number).result()
                order.append("started")
    finally:
        signal.signal(number, before)
    assert heard == [["started"]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_while_workers_work_whichever_thread_it_reaches(number):
    def stop(*_):
        raise KeyboardInterrupt

    before, begin = signal.signal(number, stop), time.monotonic()
    other = threading.Timer(0.5, signal.raise_signal, [number])  # so no call of this thread is interrupted
    try:
        with RolloutPool(1) as pool:
            other.start()
            with pytest.raises(KeyboardInterrupt):
                pool.map(time.sleep, [(100,)])
    finally:
        signal.signal(number, before)
    assert time.monotonic() - begin < 50


def test_a_worker_that_dies_between_two_results_is_one_error():
    with RolloutPool(1) as pool:
        results = pool.map_as_completed(os.getpid, (() for _ in range(100)))
        _, worker = next(results)
        os.kill(worker, signal.SIGKILL)
        while not pool._executor._broken:
            time.sleep(0.01)
        with pytest.raises(UserError, match="a rollout process died"):
            list(results)
