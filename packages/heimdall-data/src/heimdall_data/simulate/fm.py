"""Narrow-band frequency modulation, as a complex baseband of constant envelope.

Sources: J. R. Carson, "Notes on the theory of modulation", Proc. IRE 10 (1922), for the
bandwidth; J. G. Proakis and M. Salehi, "Communication Systems Engineering" (2nd ed., 2002),
section 3.3, for the phase as the integral of the modulating signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["carson_bandwidth_hz", "fm_baseband"]


def carson_bandwidth_hz(deviation_hz: float, highest_audio_hz: float) -> float:
    """Bandwidth that holds about 98 % of the power, in Hz (Carson 1922)."""
    return 2 * (deviation_hz + highest_audio_hz)


def fm_baseband(
    modulating: NDArray[np.float64], deviation_hz: float, sample_rate_hz: float
) -> NDArray[np.complex128]:
    """The modulated carrier around 0 Hz, of amplitude 1, `(n_samples,)`.

    The modulating signal is taken as periodic and its mean as zero, so the result is periodic
    too, and a delay by a phase ramp over its spectrum is exact.
    """
    spectrum = np.fft.rfft(modulating)
    angular_hz = 2 * np.pi * np.fft.rfftfreq(len(modulating), 1 / sample_rate_hz)
    spectrum[0] = 0.0
    spectrum[1:] *= 2 * np.pi * deviation_hz / (1j * angular_hz[1:])
    phase = np.fft.irfft(spectrum, len(modulating))
    baseband = np.empty(len(phase), dtype=np.complex128)
    np.cos(phase, out=baseband.real)
    np.sin(phase, out=baseband.imag)
    return baseband
