"""The convolutional net without torch is torch's."""

import numpy as np
import pytest
import torch

from liquid_control.kernels.convolution import connect, convolve, image_size, normalise, pack_convolution, room


@pytest.mark.parametrize("outputs", [5, 8, 16, 24, 32])
@pytest.mark.parametrize(("width", "kernel", "stride"), [(9, 3, 2), (11, 5, 2), (8, 3, 1), (3, 3, 1)])
def test_a_convolution_is_torchs(outputs, width, kernel, stride):
    rng = np.random.default_rng(0)
    height, channels = 7, 3
    image = room(height, width, channels, np.dtype(np.float32))
    pixels = rng.standard_normal((height, width, channels)).astype(np.float32)
    image[:, : width * channels] = pixels.reshape(height, -1)
    weight = rng.standard_normal((outputs, channels, kernel, kernel)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    rows, columns = (image_size(length, kernel, stride) for length in (height, width))
    out = room(rows, columns, outputs, np.dtype(np.float32))
    convolve(image, channels, *pack_convolution(weight, bias), stride, out, columns, outputs)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.from_numpy(weight), torch.from_numpy(bias), stride
    )
    expected = expected.relu()[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(out[:, : columns * outputs].reshape(expected.shape), expected, atol=2e-5)


def test_a_linear_layer_is_torchs():
    rng = np.random.default_rng(0)
    image = room(2, 3, 4, np.dtype(np.float32))
    image[:, :12] = rng.standard_normal((2, 12))
    layer = torch.nn.Linear(24, 20)
    weight, bias = (parameter.detach().numpy() for parameter in layer.parameters())
    weight, bias = pack_convolution(weight[:, :, None, None], bias)
    out = np.empty(bias.size, np.float32)
    connect(image, 12, weight, bias, out)
    expected = torch.tanh(layer(torch.from_numpy(image[:, :12].reshape(1, -1)))).detach().numpy()[0]
    np.testing.assert_allclose(out[:20], expected, atol=1e-6)


def test_pixels_become_numbers_around_zero():
    image = room(1, 1, 3, np.dtype(np.float32))
    normalise(np.array([[0, 51, 255]], np.uint8), image)
    np.testing.assert_allclose(image[0, :3], [-0.5, -0.3, 0.5], atol=1e-6)
