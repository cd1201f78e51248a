"""Features of vibration mean what their names say."""

import sys

import numpy as np
import pytest

from liquid_control.data.vibration import FEATURES, vibration_features
from liquid_control.support.errors import UserError

RATE = 25_600


def features(signal):
    return dict(zip(FEATURES, vibration_features(np.asarray(signal)[:, None], RATE), strict=True))


def test_a_tone_has_its_frequency_and_little_entropy():
    time = np.arange(2560) / RATE
    tone, noise = features(np.sin(2 * np.pi * 2000 * time)), features(np.random.default_rng(0).normal(size=2560))
    assert tone["dominant frequency in kHz"] == pytest.approx(2, rel=0.1)
    assert tone["spectral entropy"] < 0.7 < noise["spectral entropy"] <= 1
    assert tone["kurtosis"] == pytest.approx(1.5, abs=0.01) and noise["kurtosis"] == pytest.approx(3, abs=0.3)


def test_ten_times_as_loud_is_two_in_the_logarithm():
    quiet = np.random.default_rng(0).normal(size=2560) + 1
    difference = np.array(list(features(10 * quiet).values())) - list(features(quiet).values())
    assert difference[0] == pytest.approx(2) and np.abs(difference[1:5]).max() < 1e-9


def test_skewness_mean_and_deviation():
    given = features([1.0, 1, 1, 5] * 64)
    assert (given["mean"], given["deviation"]) == (2, pytest.approx(np.sqrt(3)))
    assert given["skewness"] == pytest.approx((3 * -1 + 27) / 4 / 3**1.5)


def test_silence_is_finite_and_channels_are_apart():
    both = vibration_features(np.column_stack([np.zeros(256), np.random.default_rng(0).normal(size=256)]), RATE)
    assert both.shape == (14,) and np.isfinite(both).all()
    assert both[3] == both[4] == both[5] == both[6] == 0 and both[13] > 0.5


def test_without_pywavelets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(UserError, match=r"pip install 'liquid-control\[sequences\]'"):
        features(np.ones(256))
