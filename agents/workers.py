"""Processes that work for another: how they are started, how they end, how many there may be."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext

import cv2
import torch

from liquid_control.support.signals import heard_afterwards

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What the libraries of linear algebra ask, when they are loaded, how many threads to have."""
PRELOADED = ["agents.episodes", "agents.road_rollout", "agents.worker_env", "agents.preload"]
"""The modules of what a worker works with."""


def worker_context() -> ForkServerContext | SpawnContext:
    """How workers are begun: on Linux forked, from a process that has loaded :data:`PRELOADED` once for all of them.

    Loading torch takes a worker seconds, and memory of its own. Forked from this process it would hang, as the threads
    of torch do not survive a fork; a process that has only loaded it has none. Elsewhere every worker loads for itself.
    """
    if sys.platform != "win32":
        resource_tracker.ensure_running()  # it unblocks Ctrl-C when it begins, which must not be amid starting_worker
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with starting_worker():
        forkserver.ensure_running()  # it loads while this process goes on
    return context


@contextmanager
def starting_worker() -> Iterator[None]:
    """Whatever process is started inside has one thread for linear algebra and is deaf to Ctrl-C from the beginning.

    Without the first, sixteen workers on sixteen processors have 256 threads, and inverting a matrix of 300 rows takes
    seconds. A terminal sends Ctrl-C to all its processes: without the second, a worker that still loads torch prints a
    traceback. This process hears Ctrl-C, or that it is asked to end, at the end: a worker whose parent leaves before it
    has told it all there is to do prints a traceback too.
    """
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    with heard_afterwards():
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else set()
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            if can_block:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def begin_worker() -> None:
    """Prepares a process that works for another: one thread, and it ends with its parent."""
    # Ctrl-C goes to the parent alone, which closes the pool in order; a parent that was killed cannot, so watch it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def processor_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
