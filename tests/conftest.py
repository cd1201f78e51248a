"""What every test process needs.

One thread: the tensors here are tiny, and threads that wait for each other cost more than they do. And Ctrl-C: a shell
that runs the tests in the background lets them ignore it, and with them every command that they start and interrupt.
What is marked cuda runs where there is a GPU. Garbage is looked for seldom, and never among what was there before the
first test: torch and some thousand tests are a million objects, and to look through them took a tenth of all time.
"""

import gc
import signal
import sys

import pytest

from tests.warm_python import warm_python

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
        items.sort(key=lambda item: item.nodeid.startswith(SHORT))


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """A command like Python that has loaded torch already, see :mod:`tests.warm_python`; it needs Linux."""
    if sys.platform != "linux":
        yield sys.executable
        return
    with warm_python(tmp_path_factory.mktemp("python")) as command:
        yield str(command)


@pytest.fixture(autouse=True)
def own_signals():
    """A command that a test calls in its own process sets handlers for good; the next tests' children inherit them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    unraisable = sys.unraisablehook
    yield
    sys.unraisablehook = unraisable
    for number, handler in before.items():
        signal.signal(number, handler)
