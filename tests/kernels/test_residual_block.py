"""The operators of the SwiGLU and of the RMS norm equal what torch computes."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from liquid_control.kernels import residual_block
from liquid_control.nn.hybrid import RMSNorm, SwiGLU
from tests.kernels.conftest import agree

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
SHAPES = {"one": (1, 1), "a vector": (7,), "odd": (3, 5, 19), "wide": (2, 150, 96)}


def with_gradients(module, x):
    """What it makes of x, and the gradients of x and of all that learns, by name."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.randn_like(y)).sum().backward()
    return {"y": y.detach(), "x": x.grad} | {name: parameter.grad for name, parameter in module.named_parameters()}


def gated(x, gain, gate, heads, floor):
    """The norm as its equation has it."""
    parts = x.unflatten(-1, (heads, -1))
    normed = gain * (parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + floor)).flatten(-2)
    return normed if gate is None else normed * nn.functional.silu(gate)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("build", [RMSNorm, lambda width: SwiGLU(width, 11)], ids=["RMSNorm", "SwiGLU"])
def test_every_shape_equals_the_reference_form(reference, build, shape, dtype):
    torch.manual_seed(0)
    module, x = build(shape[-1]).to(dtype), 3 * torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    fast = with_gradients(module, x)
    module.zero_grad()
    agree(fast, reference(with_gradients, module, x), TOLERANCES[dtype])


@pytest.mark.parametrize("heads", [1, 2, 6])
@pytest.mark.parametrize("gate", [False, True])
def test_the_norm_of_heads_equals_its_equation(heads, gate):
    torch.manual_seed(0)
    x, gain, opening, wanted = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 70, 6 * 17), (6 * 17,), (2, 70, 6 * 17), (2, 70, 6 * 17))
    )
    given = (x, gain, opening) if gate else (x, gain)
    results = []
    for form in (residual_block.rms_norm, gated):
        y = form(x, gain, opening if gate else None, heads, 1e-5)
        results.append([y, *torch.autograd.grad(y, given, wanted)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_no_vectors_are_no_work():
    for module in (RMSNorm(5), SwiGLU(5, 3)):
        found = with_gradients(module, torch.empty(2, 0, 5))
        assert found["y"].shape == found["x"].shape == (2, 0, 5)
        assert all(not found[name].any() for name, _ in module.named_parameters())


def test_a_vector_of_zeros_has_finite_gradients():
    norm, x = RMSNorm(5), torch.zeros(2, 5, requires_grad=True)
    norm(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.equal(norm.weight.grad, torch.zeros(5))


@pytest.mark.parametrize(("build", "name"), [(RMSNorm, "rms_norm"), (lambda width: SwiGLU(width, 4), "swiglu")])
def test_the_operators_run_while_a_network_learns_and_compilers_see_what_they_can_fuse(build, name):
    module, x = build(8), torch.randn(2, 3, 8, requires_grad=True)
    with torch.profiler.profile() as profile:
        module(x)
    assert f"liquid_control::{name}" in {event.name for event in profile.events()}
    targets = [str(node.target) for node in make_fx(module)(x).graph.nodes]
    assert not any("liquid_control" in target for target in targets)


def test_half_precision_is_left_to_torch():
    x = torch.randn(2, 3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert SwiGLU(8, 4)(x).dtype == torch.bfloat16
    assert RMSNorm(8).bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("gate", [False, True])
def test_the_operators_are_registered_as_torch_asks(gate):
    x, gain, opening = (
        torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 8), 8, (2, 3, 8))
    )
    torch.library.opcheck(residual_block.rms_norm, (x, gain, opening if gate else None, 2, 1e-5))
    torch.library.opcheck(residual_block.swiglu, (x,))


def test_results_are_the_same_to_the_bit_for_any_number_of_threads(threads):
    torch.manual_seed(0)
    x, results = torch.randn(8, 300, 96), []
    for count in (1, 3):
        threads(count)
        results.append(with_gradients(RMSNorm(96), x))
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


@pytest.mark.parametrize("build", [RMSNorm, lambda width: SwiGLU(width, 4)], ids=["RMSNorm", "SwiGLU"])
def test_second_derivatives_and_vectorised_ones_equal_the_reference_form(reference, build):
    torch.manual_seed(0)
    module, x = build(8).double(), torch.randn(3, 8, dtype=torch.float64)

    def derivatives():
        leaf = x.clone().requires_grad_()
        learned = list(module.parameters())
        first = torch.autograd.grad(module(leaf).square().sum(), [leaf, *learned], create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), [leaf, *learned])
        jacobian = torch.autograd.functional.jacobian(lambda x: module(x).sum(0), x, vectorize=True)
        return {name: value.detach() for name, value in enumerate([*first, *second, jacobian])}

    agree(derivatives(), reference(derivatives), 1e-12)


def test_second_derivatives_of_a_gated_norm_equal_its_equation():
    torch.manual_seed(0)
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 8), (8,), (3, 8))]
    assert torch.autograd.gradgradcheck(lambda *of: residual_block.rms_norm(*of, 2, 1e-5), given)


@pytest.mark.parametrize("build", [RMSNorm, lambda width: SwiGLU(width, 4)], ids=["RMSNorm", "SwiGLU"])
def test_checkpoints_of_activations_give_the_same_gradients(build):
    torch.manual_seed(0)
    module, x = build(8), torch.randn(2, 5, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(module(x).square().sum(), x)
    (found,) = torch.autograd.grad(checkpoint(module, x, use_reentrant=False).square().sum(), x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(2, 16), (2, 4)])
def test_vectors_of_another_width_are_refused(shape):
    with pytest.raises(RuntimeError, match="normalized_shape"):
        RMSNorm(8)(torch.ones(shape, requires_grad=True))


def test_the_operators_refuse_shapes_that_do_not_fit():
    x = torch.ones(2, 6)
    for gain, gate, heads in ((torch.ones(5), None, 1), (torch.ones(6), torch.ones(2, 5), 1), (torch.ones(6), None, 4)):
        with pytest.raises(ValueError, match=r"x \(2, 6\), a gain"):
            residual_block.rms_norm(x, gain, gate, heads, 1e-5)
    with pytest.raises(ValueError, match="an even number"):
        residual_block.swiglu(torch.ones(2, 5))


def test_reading_without_gradients_does_not_wait_for_numba():
    program = (
        "import sys, torch; from liquid_control.nn.hybrid import RMSNorm, SwiGLU; "
        "torch.no_grad().__enter__(); SwiGLU(4, 3)(RMSNorm(4)(torch.ones(2, 4))); print('numba' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
