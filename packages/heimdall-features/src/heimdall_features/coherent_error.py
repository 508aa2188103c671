"""Errors of delays that no noise explains: echoes, receiver filters, interference, fading.

They are measured from a receiver's residual from the waveform, in blocks of time and in bands of
frequency. Divided by the waveform, the residual of a delay error is imaginary and grows with
frequency. The aligned receiver has none left, but errors of the same kind show elsewhere:

- in the real part. An echo of random phase tilts the amplitude over frequency as much as it
  delays, and so does a resonance (Bode's relation of attenuation and phase): two quadratures of
  one error, of which only the delay is hidden. It is the only trace of an echo that is too short
  to be resolved;
- between blocks of time, if the paths or receivers change;
- between bands, if an echo or a filter delays them differently. The part that differs from block
  to block is not counted again.

Each is a standard error of the whole recording's delay, under the assumption that blocks, or
bands, err independently. The largest counts.

Sources: K.-Y. Liang and S. L. Zeger, "Longitudinal data analysis using generalized linear
models", Biometrika 73 (1986), for standard errors from groups; H. W. Bode, "Network Analysis and
Feedback Amplifier Design" (1945); Student, "The probable error of a mean", Biometrika 6 (1908);
E. B. Wilson and M. M. Hilferty, "The distribution of chi-square", PNAS 17 (1931).
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import scipy.fft
from numpy.typing import NDArray

_N_BLOCKS: Final = 8
"""Enough for a standard error to 20 %, and few enough that blocks of 0.1 s err independently."""
_N_BANDS: Final = 8
_LEAST_POWER: Final = 0.01
"""Power of a block, over the mean of all, below which its gain is not fitted."""
_DEVIATIONS: Final = 3.09
"""Normal deviate that noise alone exceeds once in a thousand times."""
_USUAL_WEIGHT: Final = 2.0
"""Weight of the mean of all receivers beside the single value that is a receiver's own."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class Scatter:
    """Variances of one receiver's delay as blocks, bands and the tilt show them, and of noise."""

    noise: float
    """Expected of each of the others if there is noise alone."""
    tilt: float
    between_blocks: float
    between_bands: float

    @classmethod
    def of(
        cls,
        waveform: Complex64,
        residual: Complex64,
        weight: Float32,
        noise_power: float,
        waveform_noise: float,
    ) -> Self:
        """Measure one receiver; variances are in squares of a sample.

        Args:
            waveform: As the receiver would hear it, `(n_samples,)`.
            residual: The receiver without it, `(n_samples,)`.
            weight: Of each bin of the whole recording, in the order of the FFT; waveform and
                residual are weighted by its square root.
            noise_power: Power of the residual before weighting, per sample.
            waveform_noise: Power of the noise in the waveform before weighting, which is in the
                residual with the opposite sign.
        """
        length = waveform.size // _N_BLOCKS
        model, rest = (
            scipy.fft.fft(series[: _N_BLOCKS * length].reshape(_N_BLOCKS, length), norm="ortho")
            for series in (waveform, residual)
        )
        bins = (np.fft.fftfreq(length, 1 / waveform.size) % waveform.size).astype(np.intp)
        noise = np.float32(waveform_noise) * weight[bins]
        power = np.square(model.real) + np.square(model.imag) - noise
        cross = model.conj() * rest + noise
        order = np.fft.fftshift(np.arange(length))
        power, cross = power[:, order], cross[:, order]
        omega = (2 * np.pi * np.fft.fftshift(np.fft.fftfreq(length))).astype(np.float32)
        # Each block with its own gain, so that fading is no delay.
        total = power.sum(axis=1, keepdims=True)
        total = np.maximum(total, _LEAST_POWER * max(float(total.mean()), 1e-30))
        cross -= (cross.sum(axis=1, keepdims=True) / total) * power
        away = omega - (power * omega).sum(axis=1, keepdims=True) / total
        cross *= away
        power *= away * away
        by_bin = np.maximum(power.sum(axis=0), 0)
        information = max(float(by_bin.sum()), 1e-30)
        edges = np.unique(
            np.searchsorted(np.cumsum(by_bin), information * np.arange(_N_BANDS) / _N_BANDS)
        )
        # Sums of a delay's gradient and information over blocks and bands.
        gradient = np.add.reduceat(cross, np.minimum(edges, length - 1), axis=1)
        weights = np.add.reduceat(power, np.minimum(edges, length - 1), axis=1)
        error = complex(gradient.sum()) / information
        gradient -= np.complex64(error) * weights
        by_block, by_band = (_squares(gradient.sum(axis=axis)) for axis in (1, 0))
        changing = _squares(gradient)
        scale = 1 / (2 * information**2)
        return cls(
            noise=noise_power / (2 * information),
            tilt=error.real**2,
            between_blocks=scale * by_block * _N_BLOCKS / (_N_BLOCKS - 1),
            between_bands=scale * max(by_band - changing, 0.0) * _N_BANDS / (_N_BANDS - 2),
        )


def coherent_variance(scatters: list[Scatter]) -> Float64:
    """Return the variance of each receiver's delay beyond noise, in squares of a sample.

    A tilt is one number from a normal distribution, which may be small by chance. A receiver with
    a smaller one than the others is taken to have mostly their mean square. With n receivers,
    errors over such sigmas have about Student's distribution with n + 1 degrees of freedom, whose
    variance is (n + 1) / (n - 1); the variance of a tilt is increased by it.
    """
    n = len(scatters)
    noise, tilt, between_blocks, between_bands = (
        np.array([getattr(scatter, name) for scatter in scatters])
        for name in ("noise", "tilt", "between_blocks", "between_bands")
    )
    own = np.maximum(tilt - noise, 0)
    tilted = np.maximum(own, (own + _USUAL_WEIGHT * own.mean()) / (1 + _USUAL_WEIGHT))
    # Of the tilts, one is common to all: the receivers are compared with each other.
    is_usual = np.mean(tilt / noise) > _most_by_noise(n - 1)
    tilted = np.where(is_usual | (tilt > noise * _most_by_noise(1)), tilted, 0.0)
    variance: Float64 = np.maximum.reduce(
        [
            tilted * (n + 1) / (n - 1),
            _beyond(between_blocks, noise, 2 * (_N_BLOCKS - 1)),
            _beyond(between_bands, noise, _N_BANDS),
        ]
    )
    return variance


def _beyond(variance: Float64, noise: Float64, freedom: int) -> Float64:
    return np.where(variance > noise * _most_by_noise(freedom), variance - noise, 0.0)


def _most_by_noise(freedom: int) -> float:
    """Mean square of `freedom` normal variables that is exceeded once in a thousand times."""
    share = 2 / (9 * freedom)
    return float((1 - share + _DEVIATIONS * np.sqrt(share)) ** 3)


def _squares(values: Complex64) -> float:
    return float(np.sum(np.square(values.real) + np.square(values.imag), dtype=np.float64))
