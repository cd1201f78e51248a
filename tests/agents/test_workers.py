"""Processes that work for another."""

import os
import signal

import pytest

from agents.rollout import RolloutPool
from agents.workers import ONE_THREAD, starting_worker


def test_a_worker_has_one_thread_for_linear_algebra_and_its_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with RolloutPool(1) as pool:
        assert pool.map(os.getenv, [(name,) for name in ONE_THREAD]) == ["1"] * len(ONE_THREAD)
    assert (os.environ["OMP_NUM_THREADS"], os.getenv("OPENBLAS_NUM_THREADS")) == ("7", None)


def test_a_worker_is_deaf_to_ctrl_c_while_it_loads():
    with RolloutPool(1) as pool:
        answer = pool._submit(os.getpid)
        (worker,) = pool._executor._processes
        os.kill(worker, signal.SIGINT)  # it has not even imported what it works with
        assert pool._result(answer) == worker


def test_ctrl_c_is_not_lost_and_leaves_everything_as_it_was(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(KeyboardInterrupt), starting_worker():
        os.kill(os.getpid(), signal.SIGINT)
    assert "OMP_NUM_THREADS" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_who_is_asked_to_end_while_a_worker_starts_ends_afterwards():
    heard, order = [], []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(list(order)))
    try:
        with starting_worker():
            signal.raise_signal(signal.SIGTERM)
            order.append("started")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [["started"]]
