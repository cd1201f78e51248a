"""The Triton trace against `plastic_trace`, step by step: values, final trace and every gradient."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from liquid_control.kernels import ReferenceFormWarning
from liquid_control.kernels.cuda import trace
from liquid_control.nn.trace import chunkwise_trace, plastic_trace

NAMES = ("q", "k", "v", "decay", "rate", "state")


def sequence(time=21, batch=2, heads=2, width=5, values=4, decay=0.9):
    """q, k, v, decay, rate and state, keys of length one."""
    torch.manual_seed(0)
    tokens = batch, time, heads
    return (
        torch.randn(*tokens, width),
        F.normalize(torch.randn(*tokens, width), dim=-1),
        torch.randn(*tokens, values),
        decay + (1 - decay) * torch.rand(tokens),
        torch.rand(tokens),
        torch.randn(batch, heads, values, width),
    )


def assert_equal_outcomes(form, given, device, **options):
    """Of ``form`` and of the trace step by step."""
    found = []
    for function in (form, plastic_trace):
        leaves = [part.detach().clone().to(device).requires_grad_() for part in given]
        y, final = function(*leaves, **(options if function is form else {"rule": options["rule"]}))
        torch.manual_seed(1)
        ((y * torch.randn(y.shape).to(y)).sum() + (final * torch.randn(final.shape).to(y)).sum()).backward()
        found.append([y.detach(), final.detach(), *(leaf.grad for leaf in leaves)])
    for name, value, expected in zip(("y", "final state", *NAMES), *found, strict=True):
        difference = (value - expected).abs().max().item()
        assert difference < 2e-5 * (1 + expected.abs().max().item()), f"{name} differs by {difference:.3g}"


@pytest.mark.parametrize("rule", trace.RULES)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"time": 1},
        {"time": 32},
        {"batch": 1, "heads": 1},
        {"width": 20, "values": 40, "batch": 1, "heads": 1},
        {"decay": 0.0},
    ],
    ids=["odd length", "one step", "whole chunks", "one head", "two blocks of values", "strong decay"],
)
def test_it_agrees_with_the_trace_step_by_step(device, rule, shape):
    q, k, v, *others = sequence(**shape)
    v = F.normalize(v, dim=-1) if rule == "oja" else v  # under longer ones it would grow without end
    assert_equal_outcomes(trace.plastic_trace, (q, k, v, *others), device, rule=rule, chunk=16)


def test_the_length_of_a_chunk_does_not_matter(device):
    given = [part.to(device) for part in sequence(time=40, batch=1)]
    short, long = (trace.plastic_trace(*given, rule="delta", chunk=chunk) for chunk in (16, 32))
    for one, other in zip(short, long, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_delta_rule_keeps_its_digits_where_all_keys_are_the_same(device):
    """Every step overwrites the last one's value: the inverse of the triangle is tame, its powers reach 1e8."""
    _, k, v, _, _, _ = sequence(time=32, batch=1, heads=1)
    k = k[:, :1].expand_as(k)
    ones = torch.ones(k.shape[:3])
    y, final = trace.plastic_trace(*(part.to(device) for part in (k, k, v, ones, ones)), rule="delta", chunk=32)
    torch.testing.assert_close(y[:, 1:].cpu(), v[:, :-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(final[:, 0].cpu() @ k[:, 0, 0, :, None], v[:, -1, 0, :, None], rtol=1e-5, atol=1e-5)


def test_no_initial_trace_is_a_trace_of_zeros(device):
    *given, state = (part.to(device) for part in sequence())
    found, expected = trace.plastic_trace(*given), trace.plastic_trace(*given, torch.zeros_like(state))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_half_precision_gives_values_of_its_kind_and_a_trace_of_single_precision(device):
    given = [part.to(device, torch.bfloat16) for part in sequence()]
    y, final = trace.plastic_trace(*given)
    expected = plastic_trace(*given)
    assert y.dtype == torch.bfloat16 and final.dtype == torch.float32
    torch.testing.assert_close(final, expected[1], rtol=1e-5, atol=1e-5)


def test_a_chunk_that_no_tile_has_is_refused(device):
    with pytest.raises(ValueError, match="chunk is 24, expected a power of two from 16 on"):
        trace.plastic_trace(*(part.to(device) for part in sequence()), chunk=24)


def test_a_rule_that_the_kernel_does_not_know_is_left_to_the_reference(device):
    x, share = torch.randn(1, 3, 1, 4, device=device), torch.ones(1, 3, 1, device=device)
    with pytest.warns(ReferenceFormWarning, match="no kernel of the trace knows the rule 'new'"):
        assert trace.plastic_trace(x, x, x, share, share, rule="new") is None


# As an operator


ASKED = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("saving", [False, True])
def test_the_operator_is_registered_as_torch_asks(device, saving):
    given = [part.to(device).requires_grad_(saving) for part in sequence()]
    torch.library.opcheck(trace.operator, (*given, "delta", 16, saving), test_utils=ASKED)


@pytest.mark.parametrize("rule", trace.RULES)
def test_make_fx_keeps_the_operator_and_its_backward_pass(device, rule):
    given = [part.to(device).requires_grad_() for part in sequence()]

    def gradients(*given):
        y, final = trace.plastic_trace(*given, rule=rule)
        return y, final, *torch.autograd.grad(y.sin().sum() + final.sum(), given)

    graph = make_fx(gradients)(*given)
    names = {str(node.target) for node in graph.graph.nodes}
    assert {"liquid_control.trace.default", "liquid_control.trace_backward.default"} <= names
    for one, other in zip(graph(*given), gradients(*given), strict=True):
        assert torch.equal(one, other)


def test_a_compiled_function_has_one_graph(device):
    given = [part.to(device).requires_grad_() for part in sequence()]
    torch._dynamo.reset()
    compiled = torch.compile(trace.plastic_trace, backend="aot_eager", fullgraph=True)
    found = []
    for function in (compiled, trace.plastic_trace):
        y, final = function(*given)
        found.append([y, final, *torch.autograd.grad(y.sin().sum() + final.sum(), given)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_the_door_leads_tensors_without_values_on_a_gpu_to_the_operator(monkeypatch):
    calls, kernel = [], trace.plastic_trace
    monkeypatch.setattr(trace, "plastic_trace", lambda *given: calls.append(given) or kernel(*given))
    with FakeTensorMode():
        given = [torch.empty(part.shape, device="cuda") for part in sequence()]
        y, final = chunkwise_trace(*given)
    assert calls and y.shape == given[2].shape and final.shape == given[5].shape and y.device.type == "cuda"
