import pytest
import torch
from torch import nn

from liquid_control.nn import LiquidLayer
from policies.registry import CORES, build_core
from policies.sequences import run_episodes

B, T, C = 5, 13, 6


def step_by_step(layer, x, state, starts, elapsed=None):
    """What run_episodes must give: one step after another, the state replaced where an episode starts."""
    initial, outputs = layer.initial_state(len(x)), []
    for tick in range(x.shape[1]):
        state = torch.where(starts[:, tick, None], initial, state)
        y, state = layer.step(x[:, tick], state, None if elapsed is None else elapsed[:, tick])
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.fixture(params=sorted(CORES))
def layer(request) -> LiquidLayer:
    torch.manual_seed(0)
    layer = build_core(request.param, C, 2, {}).double()
    layer.learned_initial_state = nn.Parameter(torch.randn(layer.state_size, dtype=torch.float64) * 0.1)
    return layer


@pytest.mark.parametrize("where", ["nowhere", "first", "inside", "everywhere"])
def test_episodes_inside_a_sequence_are_those_stepped_one_by_one(layer, where):
    x = torch.randn(B, T, C, dtype=torch.float64, requires_grad=True)
    state = torch.randn(B, layer.state_size, dtype=torch.float64) * 0.1
    starts = {
        "nowhere": torch.zeros(B, T, dtype=torch.bool),
        "first": torch.arange(T).expand(B, T) == 0,
        "inside": torch.rand(B, T) < 0.3,
        "everywhere": torch.ones(B, T, dtype=torch.bool),
    }[where]
    elapsed = 0.5 + torch.rand(B, T, dtype=torch.float64)
    leaves = [x, *layer.parameters()]

    def outcome(run):
        y, after = run(layer, x, state, starts, elapsed)
        gradients = torch.autograd.grad(y.sin().sum() + after.square().sum(), leaves, allow_unused=True)
        return [y, after, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)]

    for found, expected in zip(outcome(run_episodes), outcome(step_by_step), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, check_dtype=False)


def test_the_learned_initial_state_gets_its_gradient_at_every_start():
    layer = build_core("cfc", C, 2, {})
    layer.learned_initial_state = nn.Parameter(torch.zeros(layer.state_size))
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[1, 4] = True
    y, _ = run_episodes(layer, torch.randn(B, T, C), torch.zeros(B, layer.state_size), starts)
    y.sum().backward()
    assert layer.learned_initial_state.grad.abs().sum() > 0
