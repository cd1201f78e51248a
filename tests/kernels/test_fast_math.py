"""The functions that LLVM vectorises, against NumPy in long double."""

import numpy as np
import pytest
from numba import njit

from liquid_control.kernels.fast_math import OPTIONS, exp2, exp2_minus_one, sigmoid, tanh
from liquid_control.kernels.simd import LANES, fill, load, store, total, where_positive

EXACT = {
    exp2: np.exp2,
    sigmoid: lambda x: 1 / (1 + np.exp(-x)),
    tanh: np.tanh,
}


def compiled(function):
    """`function` over a flat array: number by number, and by lanes."""

    @njit(**OPTIONS)
    def numbers(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    @njit(**OPTIONS)
    def lanes(x, y):
        for i in range(x.size // LANES):
            store(y, i, function(load(x, i)))

    return numbers, lanes


@pytest.fixture(scope="module", params=EXACT, ids=lambda function: function.__name__)
def case(request):
    return request.param, *compiled(request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_are_within_two_epsilon(case, dtype):
    function, *forms = case
    limit = 126 if dtype == np.float32 else 1022
    x = np.concatenate([np.linspace(-20, 20, 4000), np.linspace(-limit, limit, 4000)]).astype(dtype)
    expected = EXACT[function](x.astype(np.longdouble))
    size = expected if function is exp2 else 1
    for form in forms:
        y = np.empty_like(x)
        form(x, y)
        assert np.max(np.abs(y - expected) / size) < 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_is_exact_extremes_are_clipped_and_nan_stays(case, dtype):
    function, *forms = case
    x = np.tile(np.array([0, np.inf, -np.inf, np.nan], dtype), LANES // 4)
    low, high = {exp2: (0, np.finfo(dtype).max), sigmoid: (0, 1), tanh: (-1, 1)}[function]
    for form in forms:
        y = np.empty_like(x)
        form(x, y)
        assert y[0] == EXACT[function](np.zeros(1))
        assert y[1] == pytest.approx(high) if function is not exp2 else 1e37 < y[1] < np.inf
        assert y[2] == pytest.approx(low, abs=1e-37)
        assert np.isnan(y[3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_power_of_two_minus_one_has_all_its_digits_near_zero_too(dtype):
    size = np.logspace(-30, np.log10(100), 4000).astype(dtype)
    x = np.concatenate([size, -size, np.zeros(2 * LANES, dtype)])
    expected = np.expm1(x.astype(np.longdouble) * np.log(np.longdouble(2)))
    for form in compiled(exp2_minus_one):
        y = np.empty_like(x)
        form(x, y)
        assert np.all(np.abs(y - expected) <= 4 * np.finfo(dtype).eps * np.abs(expected))


def test_lanes_compute_as_numbers_do():
    @njit(**OPTIONS)
    def kernel(x, y):
        a, b = load(x, 0), load(x, 1)
        a += 2 * b
        store(y, 0, where_positive(b, -a / b, fill(x[3]) - 1.0))
        return total(a)

    x = np.random.default_rng(0).normal(size=2 * LANES).astype(np.float32)
    y = np.empty(LANES, np.float32)
    a, b = x[:LANES] + 2 * x[LANES:], x[LANES:]
    assert kernel(x, y) == pytest.approx(a.sum(), rel=1e-6)
    np.testing.assert_allclose(y, np.where(b > 0, -a / b, x[3] - 1), rtol=1e-6)
