"""VisualBackProp: bright where the eyes respond, and nowhere else."""

import numpy as np
import pytest
import torch

from policies.eyes import ConvEyes
from policies.saliency import saliency

SHAPE = (33, 49, 3)  # every window of every convolution fits, so all of it is looked at


def eyes_for_red(kernels=(5, 3, 3), channels=(2, 2, 2), shape=SHAPE):
    """Eyes whose first channel sums up how red the image is, whose second answers to nothing."""
    eyes = ConvEyes(shape, channels, kernels)
    with torch.no_grad():
        for layer in eyes.convolutions[::2]:
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[0, 0] = 1.0
        first = eyes.convolutions[0]
        first.bias[0] = 0.5 * first.kernel_size[0] ** 2  # black counts nothing
    return eyes


def random_image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("place", [(8, 10), (8, 36), (22, 22)])
def test_the_one_place_that_the_eyes_respond_to_is_the_most_salient(place):
    row, column = place
    image = np.zeros(SHAPE, np.uint8)
    image[..., 1:] = 200  # a green and blue that they don't see
    image[row - 1 : row + 2, column - 1 : column + 2, 0] = 255
    mask = saliency(eyes_for_red(), image)
    assert mask.shape == SHAPE[:2] and mask.dtype == np.float32
    assert mask.min() == 0 and mask.max() == 1
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    assert (mask * rows).sum() / mask.sum() == pytest.approx(row, abs=1)
    assert (mask * columns).sum() / mask.sum() == pytest.approx(column, abs=1)
    far = np.hypot(rows - row, columns - column) > 8
    assert mask[far].max() < 0.01


def test_one_convolution_by_hand():
    """Red in one corner window of size 2 and stride 2: its four pixels are salient, no other one."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[0, 0, 0] = 255
    image[3, 5, 0] = 102  # 0.4 of it
    mask = saliency(eyes_for_red((2,), (1,), (4, 6, 3)), image)
    expected = np.zeros((4, 6))
    expected[:2, :2], expected[2:, 4:] = 1, 0.4
    np.testing.assert_allclose(mask, expected, atol=1e-6)


def test_two_convolutions_multiply_the_layers():
    """A map of the first layer counts as much as the second layer, spread over it, makes of it."""
    eyes = eyes_for_red((2, 2), (2, 1), (8, 8, 3))
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0, 0] = 255  # in the first window of both layers
    image[0, 6, 0] = image[2, 4, 0] = 102
    mask = saliency(eyes, image)
    # Layer 1 (halved, the mean over a silent channel): 0.5 at (0, 0), 0.2 at (0, 3) and (1, 2). Layer 2 sums four of
    # them: 1 and 0.8. So 0.5 · 1, 0.2 · 0.8 twice.
    expected = np.zeros((8, 8))
    expected[:2, :2], expected[:2, 6:], expected[2:4, 4:6] = 1, 0.32, 0.32
    np.testing.assert_allclose(mask, expected, atol=1e-6)


@pytest.mark.parametrize("kernels", [(5, 3, 3), (3, 3), (7, 2, 4), (4,)])
@pytest.mark.parametrize("shape", [SHAPE, (32, 96, 3), (28, 31, 3)])
def test_masks_are_in_range_and_as_large_as_the_image(kernels, shape):
    torch.manual_seed(0)
    eyes = ConvEyes(shape, (8, 16, 16)[: len(kernels)], kernels)
    for seed in range(3):
        mask = saliency(eyes, random_image(seed, shape))
        assert mask.shape == shape[:2]
        assert mask.min() == 0 and mask.max() == 1


@pytest.mark.parametrize("value", [0, 127, 255])
def test_an_image_of_one_colour_has_nothing_salient_and_no_grid(value):
    torch.manual_seed(0)
    assert (saliency(ConvEyes(SHAPE), np.full(SHAPE, value, np.uint8)) == 0).all()


def test_what_no_window_of_a_deeper_layer_reaches_is_not_salient():
    """Of 32 × 96 pixels the last convolution of 5, 3, 3 is given the first 25 × 89."""
    torch.manual_seed(0)
    mask = saliency(ConvEyes((32, 96, 3)), random_image(shape=(32, 96, 3)))
    assert (mask[25:] == 0).all() and (mask[:, 89:] == 0).all()
    assert mask[24, :89].max() > 0 and mask[:25, 88].max() > 0


def test_eyes_that_respond_to_nothing_give_zeros():
    eyes = eyes_for_red()
    with torch.no_grad():
        eyes.convolutions[0].bias.fill_(-100.0)
    assert (saliency(eyes, random_image()) == 0).all()


def test_the_mask_does_not_depend_on_the_contrast_of_what_is_seen():
    image = random_image() // 2
    image[..., 1:] = 0
    np.testing.assert_allclose(saliency(eyes_for_red(), image), saliency(eyes_for_red(), image * 2), atol=1e-5)


@pytest.mark.parametrize("image", [np.zeros((32, 49, 3), np.uint8), np.zeros(SHAPE, np.float32)])
def test_another_image_is_refused(image):
    with pytest.raises(ValueError, match=r"expected uint8 \(33, 49, 3\)"):
        saliency(ConvEyes(SHAPE), image)
