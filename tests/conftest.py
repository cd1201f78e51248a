"""What every test process needs.

One thread: the tensors here are tiny, and threads that wait for each other cost more than they do. And Ctrl-C: a shell
that runs the tests in the background lets them ignore it, and with them every command that they start and interrupt.
What is marked cuda runs where there is a GPU. Garbage is looked for seldom, and never among what was there before the
first test: torch and some thousand tests are a million objects, and to look through them took a tenth of all time.
One Python that has loaded torch serves all processes that run tests, and starts what their trainings drive with.
"""

import contextlib
import gc
import multiprocessing.spawn
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from tests.warm_python import warm_python

LONG = (
    "tests/nn/test_torch_tools.py", "tests/commands/test_tune.py", "tests/commands/test_drive.py",
    "tests/docs/test_pages.py", "tests/kernels/test_memory.py", "tests/commands/test_train.py",
    "tests/kernels/test_cfc.py", "tests/commands/test_lm.py", "tests/agents/test_ppo.py",
    "tests/support/test_starting.py", "tests/kernels/test_operators.py", "tests/commands/test_export.py",
    "tests/envs/udacity/test_server.py", "tests/agents/test_distributed.py", "tests/commands/test_train_roads.py",
    "tests/envs/udacity/test_simulator.py", "tests/commands/test_evaluate_shifts.py",
    "tests/kernels/cuda/test_trace.py", "tests/envs/udacity/test_live.py", "tests/kernels/test_ltc.py",
    "tests/commands/test_evaluate.py", "tests/nn/test_contract.py",
)  # fmt: skip
"""Files that take half a minute or more, handed out first. What computes stands between what waits for processes."""
SHORT = ("tests/benchmarks", "tests/data", "tests/policies", "tests/report")
"""Folders whose files take seconds each. They are handed out last, so that all processes end at the same time."""
GARBAGE = 20_000
"""How many more objects there may be before garbage among the young ones is looked for; usually it is 700."""

signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(GARBAGE)


def pytest_collection_modifyitems(config, items):
    """Where tests have been collected, torch is loaded. The process of xdist that hands them out collects none."""
    import torch

    torch.set_num_threads(1)
    gc.freeze()
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _turn(item.nodeid))


def _turn(test):
    """When a test is handed out, its file's place among them."""
    file = test.partition("::")[0]
    return LONG.index(file) if file in LONG else len(LONG) + file.startswith(SHORT)


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


PYTHON = pytest.StashKey[str]()
"""The command that the process of xdist has made."""
END = pytest.StashKey[contextlib.ExitStack]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """The process of xdist tells each that it starts; the command loads torch while they look for tests."""
    stash = node.config.stash
    if sys.platform == "linux" and PYTHON not in stash:
        end = stash[END] = contextlib.ExitStack()
        folder = end.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        stash[PYTHON] = str(end.enter_context(warm_python(Path(folder))))
    node.workerinput["python"] = stash.get(PYTHON, sys.executable)


def pytest_unconfigure(config):
    if END in config.stash:
        config.stash[END].close()


@pytest.fixture(scope="session")
def python(request, tmp_path_factory):
    """A command like Python that has loaded torch already, see :mod:`tests.warm_python`; it needs Linux."""
    if sys.platform != "linux":
        yield sys.executable
    elif hasattr(request.config, "workerinput"):
        yield request.config.workerinput["python"]
    else:
        with warm_python(tmp_path_factory.mktemp("python")) as command:
            yield str(command)


@pytest.fixture(scope="session", autouse=True)
def warm_workers(request):
    """What trainings in this process drive with is forked from the command, where it is there."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(request.config, "workerinput"):
            command = os.fsencode(request.config.workerinput["python"])
            patch.setattr(multiprocessing.spawn, "_python_exe", command)
        yield


@pytest.fixture(autouse=True)
def own_signals():
    """A command that a test calls in its own process sets handlers for good; the next tests' children inherit them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    unraisable = sys.unraisablehook
    yield
    sys.unraisablehook = unraisable
    for number, handler in before.items():
        signal.signal(number, handler)
