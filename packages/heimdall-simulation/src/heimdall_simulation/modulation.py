"""Modulations: amplitude, one sideband, and the width of each.

Sources: J. G. Proakis and M. Salehi, "Communication Systems Engineering" (2nd ed., 2002),
section 3.2, for AM and its depth and for single sideband as the analytic signal; the widths
are twice the highest audio frequency for AM and, since the carrier stays in the middle, for
one sideband too, and Carson's rule for what modulates the frequency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from heimdall_simulation.packets import PACKET_FORMATS, carson_bandwidth_hz
from heimdall_simulation.voice import AUDIO_BAND_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MODULATIONS", "Modulation", "am_baseband", "channel_width_hz", "ssb_baseband"]


Modulation = Literal["fm", "am", "usb", "lsb", "gfsk", "4fsk"]
MODULATIONS: tuple[Modulation, ...] = ("fm", "am", "usb", "lsb", "gfsk", "4fsk")


def am_baseband(modulating: NDArray[np.float64], depth: float) -> NDArray[np.complex128]:
    """Carrier and both sidebands around 0 Hz, of carrier amplitude 1, `(n_samples,)`.

    A modulating signal within ±1 and a depth up to 1 never turn the carrier over.
    """
    return (1 + depth * modulating).astype(np.complex128)


def ssb_baseband(modulating: NDArray[np.float64], *, upper: bool) -> NDArray[np.complex128]:
    """One sideband of a suppressed carrier at 0 Hz, `(n_samples,)`: the analytic signal.

    The other sideband is exactly nothing; a real set leaves it 40 dB to 60 dB down.
    """
    n_samples = len(modulating)
    spectrum = np.fft.fft(modulating)
    spectrum[(n_samples + 1) // 2 :] = 0.0
    spectrum[0] = 0.0
    analytic = 2 * np.fft.ifft(spectrum)
    return analytic if upper else np.conj(analytic)


def channel_width_hz(modulation: Modulation, largest_deviation_hz: float) -> float:
    """What a signal fills around its carrier, in Hz; the deviation is FM's."""
    if modulation == "fm":
        return carson_bandwidth_hz(largest_deviation_hz, AUDIO_BAND_HZ[1])
    if modulation in PACKET_FORMATS:
        return PACKET_FORMATS[modulation].bandwidth_hz
    return 2 * AUDIO_BAND_HZ[1]
