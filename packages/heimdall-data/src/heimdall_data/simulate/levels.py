"""What a backend can say of a recording's level without knowing what was sent.

Welch's method (P. D. Welch, IEEE Trans. AU 15, 1967): the noise density is the mean over
the bins outside the channel; the signal is what the channel holds beyond that noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heimdall_data.simulate.receiver import FULL_SCALE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEAST_SNR_DB", "measured_levels_db"]

LEAST_SNR_DB = -30.0
"""What is reported where the channel holds no more than noise."""
_SEGMENT = 1024


def measured_levels_db(iq: NDArray[np.int16], channel_share: float) -> tuple[float, float]:
    """Signal-to-noise ratio in the sampled band, and signal strength in dB of full scale.

    `channel_share` is the part of the sampled band, around its middle, that a signal may
    fill. Shape of `iq`: `(2, n_samples)`. Both to a hundredth of a dB.
    """
    power = _welch_power(iq)
    distance = np.abs(np.fft.fftfreq(len(power)))
    outside = distance > channel_share / 2
    noise_per_bin = float(np.mean(power[outside]))
    excess = float(np.sum(power[~outside] - noise_per_bin))
    noise = noise_per_bin * len(power)
    signal = max(excess, noise * 10 ** (LEAST_SNR_DB / 10))
    return round(10 * np.log10(signal / noise), 2), round(10 * np.log10(signal), 2)


def _welch_power(iq: NDArray[np.int16]) -> NDArray[np.float64]:
    """Power in each bin, in units of full scale, averaged over segments: `(_SEGMENT,)`.

    A Hann window keeps a strong carrier out of the bins where the noise is measured.
    """
    n_segments = iq.shape[1] // _SEGMENT
    scaled = iq[:, : n_segments * _SEGMENT].astype(np.float32) / np.float32(FULL_SCALE)
    segments = (scaled[0] + 1j * scaled[1]).reshape(n_segments, _SEGMENT)
    window = np.hanning(_SEGMENT + 1)[:-1].astype(np.float32)
    spectra = np.fft.fft(segments * window, axis=1)
    power = (spectra.real**2 + spectra.imag**2).mean(axis=0, dtype=np.float64)
    window_energy = float(np.sum(window.astype(np.float64) ** 2))
    normalised: NDArray[np.float64] = power / (window_energy * _SEGMENT)
    return normalised
