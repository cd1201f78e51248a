"""The convolutions over a batch are torch's, values and gradients, for any number of threads."""

import pytest
import torch
from torch import nn

from liquid_control.kernels.convolution import standardise_all
from liquid_control.kernels.convolution_batch import plan_of, see
from policies.eyes import ConvEyes


def network(height, width, depth, shapes, dtype=torch.float64):
    """Layers of torch, their parameters, and the plan."""
    torch.manual_seed(0)
    layers = []
    for outputs, kernel, stride in shapes:
        layers += [nn.Conv2d(depth, outputs, kernel, stride, dtype=dtype), nn.ReLU()]
        depth = outputs
    layers = nn.Sequential(*layers)
    return layers, list(layers.parameters()), plan_of((height, width, layers[0].in_channels), shapes)


@pytest.mark.parametrize("batch", [1, 16, 35])
@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ((28, 32, 3), [(8, 5, 2), (16, 3, 2), (16, 3, 2)]),
        ((11, 14, 2), [(5, 3, 2), (7, 2, 1)]),
        ((9, 8, 1), [(1, 1, 1), (3, 4, 3), (2, 1, 1)]),
    ],
)
def test_convolutions_are_torchs(batch, size, shapes):
    height, width, depth = size
    layers, parameters, plan = network(*size, shapes)
    images = torch.randn(batch, height, width, depth, dtype=torch.float64)
    expected = layers(images.permute(0, 3, 1, 2))
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, parameters, upstream)
    seen = see(plan, images, parameters)
    torch.testing.assert_close(seen.permute(0, 3, 1, 2), expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(seen, parameters, upstream.permute(0, 2, 3, 1))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(see(plan, images, parameters), seen)


def test_gradients_are_the_same_for_any_number_of_threads():
    shapes = [(8, 5, 2), (16, 3, 2)]
    _, parameters, plan = network(28, 32, 3, shapes, torch.float32)
    images = torch.randn(500, 28, 32, 3)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            seen = see(plan, images, parameters)
            found.append([seen, *torch.autograd.grad(seen, parameters, torch.ones_like(seen))])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_nan_reaches_what_sees_it_and_nothing_else():
    shapes = [(4, 3, 2)]
    _, parameters, plan = network(9, 9, 3, shapes, torch.float32)
    images = torch.randn(20, 9, 9, 3)
    images[3, 0, 0, 1] = torch.nan
    seen = see(plan, images, parameters)
    assert seen[3, 0, 0].isnan().all() and seen.isnan().sum() == 4


def test_second_derivatives_are_refused():
    _, parameters, plan = network(9, 9, 3, [(4, 3, 2)])
    seen = see(plan, torch.randn(2, 9, 9, 3, dtype=torch.float64), parameters)
    with pytest.raises(RuntimeError, match="LIQUID_CONTROL_KERNELS=reference"):
        torch.autograd.grad(seen.sum(), parameters, create_graph=True)


@pytest.mark.parametrize("encoding", ["rgb", "norm"])
def test_eyes_see_the_same_with_and_without_kernels(encoding, monkeypatch):
    torch.manual_seed(0)
    eyes = ConvEyes((28, 32, 3), encoding=encoding)
    images = torch.randint(0, 256, (40, 28, 32, 3), dtype=torch.uint8)
    features = eyes(images)
    features.square().sum().backward()
    found = [parameter.grad.clone() for parameter in eyes.parameters()]
    eyes.zero_grad()
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    expected = eyes(images)
    expected.square().sum().backward()
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, [parameter.grad for parameter in eyes.parameters()], rtol=1e-4, atol=1e-4)


def test_pictures_are_standardised_as_torch_does(monkeypatch):
    eyes = ConvEyes((28, 32, 3), encoding="norm")
    images = torch.randint(0, 256, (33, 28, 32, 3), dtype=torch.uint8)
    images[0], images[1] = 7, images[1] // 100
    found = eyes.normalise(images)
    assert torch.equal(found, eyes.normalise(images.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)))
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    torch.testing.assert_close(found, eyes.normalise(images), rtol=1e-5, atol=1e-6)
    assert standardise_all.signatures


def test_eyes_are_torchs_where_somebody_looks_into_them(monkeypatch):
    """Gradients of pictures, hooks, other layers and transforms need torch's own operations."""
    called = []
    monkeypatch.setattr("liquid_control.kernels.convolution_batch.see", lambda *given: called.append(given))
    eyes = ConvEyes((28, 32, 3), encoding="norm")
    images = torch.randint(0, 256, (2, 28, 32, 3), dtype=torch.uint8)
    pictures = images.float().requires_grad_()
    eyes(pictures).sum().backward()
    assert pictures.grad.abs().sum() > 0
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda given: eyes(given))(images)
    assert "aten.convolution.default" in graph.code
    seen = []
    handle = eyes.convolutions[2].register_forward_hook(lambda layer, given, result: seen.append(result))
    eyes(images)
    assert len(seen) == 1
    handle.remove()
    nn.utils.parametrizations.weight_norm(eyes.convolutions[0])
    eyes(images)
    eyes.bfloat16()(images)
    assert not called
