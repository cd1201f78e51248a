"""The Triton kernels on a GPU where there is one, otherwise on the CPU through Triton's interpreter.

Triton looks at the variable when a kernel is defined, so it is set here, before any test imports one.
"""

import copy
import importlib.util
import os

import pytest
import torch

from liquid_control import kernels

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
elif torch.cuda.is_available():
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is unset
else:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request, monkeypatch):
    """Where the kernels run; they are called by name, and what they are compared with is the reference form.

    A reason for it that was given before is given again.
    """
    on_gpu = torch.cuda.is_available()
    if request.param == "interpreter" and on_gpu:
        pytest.skip("with a GPU the kernels are compiled")
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    monkeypatch.setattr(kernels, "_said", set())
    return "cuda" if on_gpu else "cpu"


@pytest.fixture
def assert_agrees(device):
    """The function below, on the device."""

    def agrees(layer, integrate, x, state, elapsed, advance=None):
        """A kernel gives the outputs, the final state and every gradient of the layer's reference form."""
        found, expected = (
            outcome(copy.deepcopy(layer).to(device), form, x.to(device), state.to(device), elapsed, advance)
            for form in (integrate, type(layer).integrate)
        )
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            difference = (found[name] - value).abs().max().item()
            assert difference < 1e-5 * (1 + value.abs().max().item()), f"{name} differs by {difference:.3g}"

    return agrees


def sequence(layer, steps=4, batch=5, elapsed=1.0, masked=False):
    """x, state, elapsed and advance of a sequence for a layer."""
    torch.manual_seed(1)
    x, state = torch.randn(steps, batch, layer.input_size), torch.randn(batch, layer.state_size)
    if elapsed == "batched":
        elapsed = 0.2 + torch.rand(steps, batch)
    return x, state, elapsed, (torch.rand(steps, batch) < 0.6 if masked else None)


def outcome(layer, integrate, x, state, elapsed, advance):
    """Outputs, final state and gradients, by name, of a random weighted sum of the first two."""
    x, state = x.clone().requires_grad_(), state.clone().requires_grad_()
    leaves = {"x": x, "state": state, **dict(layer.named_parameters())}
    if isinstance(elapsed, torch.Tensor):
        leaves["elapsed"] = elapsed = elapsed.to(x.device).clone().requires_grad_()
    y, final = integrate(layer, x, state, elapsed, None if advance is None else advance.to(x.device))
    torch.manual_seed(2)
    ((y * torch.randn(y.shape).to(y)).sum() + (final * torch.randn(final.shape).to(y)).sum()).backward()
    gradients = {f"gradient of {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"y": y.detach(), "final state": final.detach()} | gradients
