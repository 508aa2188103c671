"""Modulations: FM, AM and single sideband of a voice, and bursts of digital frequency modulation.

Sources: J. R. Carson, "Notes on the theory of modulation", Proc. IRE 10 (1922), for the bandwidth
of FM; J. G. Proakis and M. Salehi, "Communication Systems Engineering" (2nd ed., 2002), section
3.3, for the phase of FM, and section 3.2, for AM and for single sideband as the analytic signal;
K. Murota and K. Hirade, "GMSK modulation for digital mobile radio telephony", IEEE Trans.
Communications 29 (1981), for the Gaussian filter and its bandwidths.

Digital bursts: ITU-R M.1371 (AIS) for the two-level format: 9600 bit/s, BT 0.4, modulation index
1/2, slots of 26.67 ms; ETSI TS 102 361-1 (DMR) for the four-level format: 4800 symbols/s,
deviations of 648 Hz and 1944 Hz, bursts of 27.5 ms every 60 ms, ramps of 1.5 ms. DMR's root raised
cosine is replaced by the same Gaussian filter. The symbols are random; bursts carry no message.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from heimdall_simulation.voice import AUDIO_BAND_HZ

Modulation = Literal["fm", "am", "usb", "lsb", "gfsk", "4fsk"]
"""Kind of modulation: FM, AM, single sideband, or FSK of two or four levels."""
MODULATIONS: tuple[Modulation, ...] = ("fm", "am", "usb", "lsb", "gfsk", "4fsk")
"""All of them."""


def carson_bandwidth_hz(deviation_hz: float, highest_audio_hz: float) -> float:
    """Return the bandwidth that contains about 98 % of the power, in Hz (Carson 1922)."""
    return 2 * (deviation_hz + highest_audio_hz)


def fm_baseband(
    modulating: NDArray[np.float64], deviation_hz: float, sample_rate_hz: float
) -> NDArray[np.complex128]:
    """Return the modulated carrier around 0 Hz, of amplitude 1, `(n_samples,)`.

    The modulating signal is taken as periodic and of mean zero. The result is then periodic too,
    and a delay by a phase ramp over its spectrum is exact.
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


def am_baseband(modulating: NDArray[np.float64], depth: float) -> NDArray[np.complex128]:
    """Return a carrier of amplitude 1 and both sidebands, around 0 Hz, `(n_samples,)`.

    A modulating signal within ±1 and a depth up to 1 never invert the carrier.
    """
    return (1 + depth * modulating).astype(np.complex128)


def ssb_baseband(modulating: NDArray[np.float64], *, upper: bool) -> NDArray[np.complex128]:
    """Return one sideband of a suppressed carrier at 0 Hz (the analytic signal), `(n_samples,)`.

    The other sideband is exactly zero; real transmitters suppress it by 40 dB to 60 dB.
    """
    n_samples = len(modulating)
    spectrum = np.fft.fft(modulating)
    spectrum[(n_samples + 1) // 2 :] = 0.0
    spectrum[0] = 0.0
    analytic = 2 * np.fft.ifft(spectrum)
    return analytic if upper else np.conj(analytic)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFormat:
    """Symbols and timing of bursts."""

    symbol_rate_hz: float
    levels: tuple[float, ...]
    """Symbols, all equally likely; the largest is 1."""
    deviation_hz: float
    """Deviation of level 1."""
    bandwidth_time: float
    """The Gaussian filter's 3 dB bandwidth times the symbol length."""
    burst_s: float
    """Length with ramps."""
    every_s: float
    """Time from the start of one burst to the next."""
    ramp_s: float

    @property
    def bandwidth_hz(self) -> float:
        """Carson bandwidth of the fundamental of alternating symbols."""
        return carson_bandwidth_hz(self.deviation_hz, self.symbol_rate_hz / 2)


PACKET_FORMATS = {
    "gfsk": PacketFormat(
        symbol_rate_hz=9600.0,
        levels=(-1.0, 1.0),
        deviation_hz=2400.0,
        bandwidth_time=0.4,
        burst_s=256 / 9600,
        every_s=2 * 256 / 9600,
        ramp_s=8 / 9600,
    ),
    "4fsk": PacketFormat(
        symbol_rate_hz=4800.0,
        levels=(-1.0, -1 / 3, 1 / 3, 1.0),
        deviation_hz=1944.0,
        bandwidth_time=0.5,
        burst_s=27.5e-3,
        every_s=60e-3,
        ramp_s=1.5e-3,
    ),
}


def packet_baseband(
    rng: np.random.Generator,
    packets: PacketFormat,
    n_samples: int,
    sample_rate_hz: float,
    *,
    first_within_s: float,
) -> NDArray[np.complex128]:
    """Return bursts around 0 Hz, of amplitude 1 between ramps and 0 between bursts, `(n_samples,)`.

    All bursts are complete. The first one lies within the first `first_within_s`, if it fits.
    """
    latest = max(min(packets.every_s, first_within_s) - packets.burst_s, 0.0)
    begin_s = rng.uniform(0, latest)
    since_first_s = np.arange(n_samples) / sample_rate_hz - begin_s
    ramps = _power_ramps(packets, n_samples / sample_rate_hz, since_first_s)
    which = (np.arange(n_samples) * (packets.symbol_rate_hz / sample_rate_hz)).astype(int)
    symbols = rng.choice(packets.levels, which[-1] + 1)
    frequency_hz = np.fft.rfftfreq(n_samples, 1 / sample_rate_hz)
    # Murota and Hirade: exp(-ln(2)/2 (f/B)^2), 3 dB down at B.
    width_hz = packets.bandwidth_time * packets.symbol_rate_hz
    gaussian = np.exp(-np.log(2) / 2 * (frequency_hz / width_hz) ** 2)
    keyed = np.fft.irfft(np.fft.rfft(symbols[which]) * gaussian, n_samples)
    # Nothing is sent at the end of the period, so the phase may jump there.
    phase = 2 * np.pi * packets.deviation_hz / sample_rate_hz * np.cumsum(keyed)
    bursts: NDArray[np.complex128] = ramps * np.exp(1j * phase)
    return bursts


def _power_ramps(
    packets: PacketFormat, period_s: float, since_first_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Envelope from 0 to 1 in each burst that ends within the period."""
    in_slot_s = np.mod(since_first_s, packets.every_s)
    begun_s = since_first_s - in_slot_s
    last_s = since_first_s[0] + period_s - packets.burst_s
    sends = (begun_s > -packets.every_s / 2) & (begun_s <= max(last_s, 0.0))
    edge_s = np.minimum(in_slot_s, packets.burst_s - in_slot_s)
    rise = np.sin(np.pi / 2 * np.clip(edge_s / packets.ramp_s, 0, 1)) ** 2
    ramps: NDArray[np.float64] = np.where(sends, rise, 0.0)
    return ramps


def channel_width_hz(modulation: Modulation, largest_deviation_hz: float) -> float:
    """Return the width of a signal around its carrier, in Hz; the deviation is FM's.

    AM, and one sideband with its carrier in the middle, take twice the highest audio frequency.
    """
    if modulation == "fm":
        return carson_bandwidth_hz(largest_deviation_hz, AUDIO_BAND_HZ[1])
    if modulation in PACKET_FORMATS:
        return PACKET_FORMATS[modulation].bandwidth_hz
    return 2 * AUDIO_BAND_HZ[1]
