"""What the tests of the kernels share."""

import pytest
import torch


@pytest.fixture
def reference(monkeypatch):
    """Calls a function while layers run in their reference form."""

    def call(function, *arguments):
        with monkeypatch.context() as context:
            context.setenv("LIQUID_CONTROL_KERNELS", "reference")
            return function(*arguments)

    return call


@pytest.fixture
def threads():
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
