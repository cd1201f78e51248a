"""What a stretch of vibration is like, in seven numbers: by a wavelet transform and by its moments."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from liquid_control.data.download import INSTALL, cache_folder
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically

FEATURES = (
    "log10 of the energy",
    "dominant frequency in kHz",
    "spectral entropy",
    "kurtosis",
    "skewness",
    "mean",
    "deviation",
)
SCALES = np.geomspace(2, 128, 24)
"""Of the Morlet wavelet; at 25.6 kHz these are 10.4 kHz to 160 Hz."""


def vibration_features(signal: np.ndarray, rate: float) -> np.ndarray:
    """Seven numbers of each channel, those of :data:`FEATURES`.

    The first three are of the continuous wavelet transform with the Morlet wavelet: the energy of all scales, the
    frequency of the scale with the most, and the entropy of their shares, 0 for one scale and 1 for all alike. The
    others are of the signal; a constant one has kurtosis and skewness 0.

    Args:
        signal: (samples, channels).
        rate: samples a second.

    Returns:
        (channels * 7,) float64, channel by channel.

    Raises:
        UserError: if PyWavelets is not installed.
    """
    try:
        import pywt
    except ImportError:
        raise UserError(f"features of vibration need the package PyWavelets. {INSTALL}.") from None
    signal = np.asarray(signal, np.float64)
    mean, deviation = signal.mean(0), signal.std(0)
    normal = (signal - mean) / np.where(deviation > 0, deviation, 1)
    coefficients, frequencies = pywt.cwt(signal, SCALES, "morl", 1 / rate, method="fft", axis=0)
    energy = np.square(coefficients).mean(1) + 1e-30  # (scales, channels); silence has a logarithm, too
    share = energy / energy.sum(0)
    features = [
        np.log10(energy.sum(0)),
        frequencies[energy.argmax(0)] / 1000,
        -(share * np.log(share)).sum(0) / np.log(len(SCALES)),
        (normal**4).mean(0),
        (normal**3).mean(0),
        mean,
        deviation,
    ]
    return np.array(features).T.ravel()


def features_of_files(files: Sequence[Path], read: Callable[[Path], np.ndarray], rate: float) -> np.ndarray:
    """The features of many files, (files, features) float64; they are :func:`kept`.

    Args:
        files: each a stretch of vibration.
        read: gives its signal, (samples, channels).
        rate: samples a second.

    Raises:
        UserError: what ``read`` raises, or if a file has not as many samples as the first.
    """

    def compute() -> np.ndarray:
        rows, samples = [], len(read(files[0]))
        for file in files:
            signal = read(file)
            if len(signal) != samples:
                raise UserError(
                    f"{file} has {len(signal)} samples, expected {samples} as in {files[0].name}. Get it again."
                )
            rows.append(vibration_features(signal, rate))
        return np.array(rows)

    return kept(files, rate, compute)


def kept(files: Sequence[Path], options: float, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``compute`` gives, from the cache where it was computed before: a run of a bearing takes minutes.

    Args:
        files: what it is computed from. Others, or others of their size or time, are computed anew.
        options: what else it depends on, beside the features themselves.
        compute: gives an array.
    """
    digest = hashlib.sha256(repr((FEATURES, SCALES.tolist(), options)).encode())
    for file in files:
        stat = file.stat()
        digest.update(repr((str(file.resolve()), stat.st_size, stat.st_mtime_ns)).encode())
    path = cache_folder("features") / f"{digest.hexdigest()[:32]}.npy"
    if path.is_file():
        return np.load(path)
    array = compute()
    content = BytesIO()
    np.save(content, array)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return array
