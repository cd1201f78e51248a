"""What the tests of the kernels share."""

import pytest
import torch


def outcome(layer, arguments):
    """Outputs, final state and all gradients of one loss, by name; dropout draws the same each time."""
    torch.manual_seed(5)
    y, state = layer(**arguments)
    leaves = dict(layer.named_parameters())
    leaves |= {name: value for name, value in arguments.items() if getattr(value, "requires_grad", False)}
    gradients = torch.autograd.grad(
        y.sin().sum() + state.square().sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return {"outputs": y.detach(), "final state": state.detach()} | dict(zip(leaves, gradients, strict=True))


def agree(found, expected, tolerance):
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


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
