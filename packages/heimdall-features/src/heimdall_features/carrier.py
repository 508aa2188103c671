"""Carrier offsets between receivers, found from their power spectra alone.

No two receivers' oscillators agree, and an offset smears a correlation. A delay changes the
phases of a spectrum but not its power, while an offset moves the power: so the shift that
best lays one receiver's power spectrum over another's is the offset, whatever the delay.
Each spectrum is first divided by its smoothed self, so that what is compared is the fine
structure of the modulation, common to all, and not the shape of a receiver's filter.

Source of the idea: S. Stein, "Algorithms for ambiguity function processing", IEEE Trans. ASSP
29 (1981), of whose ambiguity function this is the delay-blind magnitude.
"""

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["carrier_offsets_hz"]

SMOOTHING_BINS: Final = 129
PEAK_LIMIT: Final = 8.0
"""Times the smoothed power: beyond it a bin is a spur and counts no more."""

Complex64 = NDArray[np.complex64]


def carrier_offsets_hz(
    signals: list[Complex64], rate_hz: float, limit_hz: float
) -> NDArray[np.float64]:
    """By how much each receiver's carrier lies above that of a common reference.

    The reference is the receiver whose spectrum fits the others' best, so that one which
    hears nothing is never it.

    Args:
        signals: one `(n_samples,)` complex array a receiver, of one moment, at one rate.
        rate_hz: that rate.
        limit_hz: no offset is larger.

    Returns:
        float64 `(receivers,)`, Hz; the reference's is 0. True to a third of what the
        recording resolves, `1 / duration`, which turns the phase of one column in 32 by a
        hundredth of a turn.
    """
    # 0.4 s to import: only who computes pays.
    import scipy.fft

    n_samples = signals[0].size
    # Padded to twice the length, so that shifts do not wrap around.
    size = scipy.fft.next_fast_len(2 * n_samples)
    profiles = [scipy.fft.rfft(_fine_structure(scipy.fft.fft(s)), size) for s in signals]
    limit = min(round(limit_hz * n_samples / rate_hz), n_samples // 2)
    shifts = np.zeros((len(signals), len(signals)))
    fits = np.zeros_like(shifts)
    for one, other in itertools.combinations(range(len(signals)), 2):
        fit = scipy.fft.irfft(profiles[other] * profiles[one].conj(), size)
        shift, height = _peak(fit, limit)
        shifts[one, other], shifts[other, one] = shift, -shift
        fits[one, other] = fits[other, one] = height
    reference = int(fits.sum(axis=1).argmax())
    offsets_hz: NDArray[np.float64] = shifts[reference] * rate_hz / n_samples
    return offsets_hz


def _fine_structure(spectrum: Complex64) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.fft.fftshift(np.square(np.abs(spectrum), dtype=np.float64))
    width = min(SMOOTHING_BINS, 1 + 2 * (power.size // 8))
    padded = np.concatenate([[0.0], np.cumsum(np.pad(power, width // 2, mode="wrap"))])
    smooth = (padded[width:] - padded[:-width]) / width
    ratio: NDArray[np.float64] = np.divide(power, smooth, out=np.ones_like(power), where=smooth > 0)
    return np.asarray(np.minimum(ratio, PEAK_LIMIT) - 1.0, dtype=np.float64)


def _peak(fit: NDArray[np.float64], limit: int) -> tuple[float, float]:
    """Where the best fit within the limit lies, to a fraction of a bin, and how good it is."""
    lags = np.arange(-limit, limit + 1)
    at = int(lags[np.argmax(fit[lags])])
    before, peak, after = fit[at - 1], fit[at], fit[at + 1]
    bend = 2 * peak - before - after
    fraction = (after - before) / (2 * bend) if bend > 0 else 0.0
    return at + float(np.clip(fraction, -0.5, 0.5)), float(peak)
