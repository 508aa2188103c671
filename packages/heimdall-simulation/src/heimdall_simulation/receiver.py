"""A receiver: delay, carrier offset, noise, the converter, and the files it writes.

The gain is fixed (no AGC), as in a network that compares levels. Levels are measured as a backend
does, without knowing the signal, by Welch's method: the noise density is the mean over the bins
outside the channel; the signal is the power in the channel beyond that noise.

Sources: J. B. Johnson and H. Nyquist, Phys. Rev. 32 (1928), for `k T B`; ITU-R P.372 for the
reference temperature of 290 K and the noise figure of a whole receiving site, with man-made
noise; P. D. Welch, IEEE Trans. AU 15 (1967).
"""

import io
from dataclasses import dataclass

import numpy as np
from heimdall_data.errors import SimulationError
from heimdall_data.recordings.kiwi_wav import HEADER, STAMP_BYTES, block_layout
from heimdall_data.recordings.recording import WEEK_NS
from numpy.typing import NDArray

from heimdall_simulation.channel import echo_response, fading_gain
from heimdall_simulation.truth import EchoTruth, RicianTruth

FULL_SCALE = 32767
"""Largest int16: 0 dB of full scale."""
LEAST_SNR_DB = -30.0
"""Reported if the channel contains only noise."""
BLOCK_SAMPLES = 512
_BOLTZMANN_J_K = 1.380649e-23
_REFERENCE_K = 290.0
_SEGMENT = 1024
_NS = 10**9
_RIFF_HEAD_BYTES = 8
_FORMAT_BYTES = 16
_PAIR_BYTES = 4

Complex128 = NDArray[np.complex128]


def thermal_noise_dbm(bandwidth_hz: float, noise_figure_db: float) -> float:
    """Return the noise power at the antenna terminals, `k T0 B F`, in dBm."""
    watts = _BOLTZMANN_J_K * _REFERENCE_K * bandwidth_hz
    return float(10 * np.log10(watts / 1e-3) + noise_figure_db)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reception:
    """Parameters with which one receiver receives a waveform."""

    delay_s: float
    """Arrival by the receiver's own clock: travel time plus clock error."""
    frequency_offset_hz: float
    phase_rad: float
    signal_dbfs: float
    """Power of the direct path for a waveform of power 1."""
    noise_dbfs: float
    """Noise power in the whole sampled band."""
    rician: RicianTruth | None = None
    """Fading of the direct path; None if it is constant."""
    echoes: tuple[EchoTruth, ...] = ()


def phasor(n_samples: int, cycles_per_sample: float, phase_rad: float) -> Complex128:
    """Return `exp(i (2 pi n cycles_per_sample + phase))`, `(n_samples,)`.

    It is an outer product of two short ones, which needs a hundredth of the sines and cosines.
    """
    inner = int(np.ceil(np.sqrt(n_samples)))
    turn = 2j * np.pi * cycles_per_sample
    fine = np.exp(turn * np.arange(inner) + 1j * phase_rad)
    coarse = np.exp(turn * inner * np.arange(-(-n_samples // inner)))
    product: Complex128 = np.multiply.outer(coarse, fine).reshape(-1)[:n_samples]
    return product


def delayed(spectrum: Complex128, delay_samples: float) -> Complex128:
    """Return the periodic signal of this spectrum with any delay in samples, `(n_samples,)`.

    By the shift theorem this is exact for a signal without power at half the sample rate.
    """
    n_samples = len(spectrum)
    ramp = phasor(n_samples, -delay_samples / n_samples, 0.0)
    # Bins past the middle are negative frequencies: one period of the rate below.
    ramp[(n_samples + 1) // 2 :] *= np.exp(2j * np.pi * delay_samples)
    ramp *= spectrum
    return np.fft.ifft(ramp)


def arrived(
    spectrum: Complex128, reception: Reception, n_samples: int, sample_rate_hz: float
) -> Complex128:
    """Return the waveform of this spectrum at the converter, in its steps and without noise."""
    late = reception.delay_s * sample_rate_hz
    signal = delayed(spectrum, late)[:n_samples]
    if reception.rician is not None:
        signal *= fading_gain(reception.rician, n_samples, sample_rate_hz)
    if reception.echoes:
        echoed = spectrum * echo_response(reception.echoes, len(spectrum), sample_rate_hz)
        signal += delayed(echoed, late)[:n_samples]
    cycles = reception.frequency_offset_hz / sample_rate_hz
    signal *= phasor(n_samples, cycles, reception.phase_rad)
    signal *= FULL_SCALE * 10 ** (reception.signal_dbfs / 20)
    return signal


def received(
    rng: np.random.Generator,
    spectrum: Complex128,
    reception: Reception,
    n_samples: int,
    sample_rate_hz: float,
    *,
    others: Complex128 | None = None,
) -> NDArray[np.int16]:
    """Return the converter's output, I and Q, `(2, n_samples)`; it saturates at full scale.

    `others` is the sum of other transmitters at the converter, from `arrived`.
    """
    signal = arrived(spectrum, reception, n_samples, sample_rate_hz)
    if others is not None:
        signal += others
    noise_rms = FULL_SCALE * 10 ** (reception.noise_dbfs / 20) / np.sqrt(2)
    iq = noise_rms * rng.standard_normal((2, n_samples))
    iq[0] += signal.real
    iq[1] += signal.imag
    np.rint(iq, out=iq)
    samples: NDArray[np.int16] = np.clip(iq, -FULL_SCALE, FULL_SCALE, out=iq).astype(np.int16)
    return samples


def npy_payload(iq: NDArray[np.int16]) -> bytes:
    """Return the samples as a NumPy file, version 1.0, little endian."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, iq.astype("<i2", copy=False), version=(1, 0))
    return buffer.getvalue()


def kiwi_wav_payload(
    iq: NDArray[np.int16], sample_rate_hz: float, start_gps_ns: int, *, age_s: int = 1
) -> bytes:
    """Return the samples as a KiwiSDR WAV (layout: `heimdall_data.recordings.kiwi_wav`).

    Each block of 512 samples is stamped with the time of its first sample, to the nanosecond. An
    incomplete last block is left out.

    Args:
        iq: I and Q, `(2, n_samples)`.
        sample_rate_hz: True rate, which the stamps give; in the header it is rounded.
        start_gps_ns: Time of the first sample, nanoseconds since 1980-01-06.
        age_s: Seconds since the last GNSS solution; 254 and 255 mean no lock.

    Raises:
        SimulationError: Fewer than two blocks, which give no rate.
    """
    n_blocks = iq.shape[1] // BLOCK_SAMPLES
    if n_blocks < 2:
        raise SimulationError(
            f"{iq.shape[1]} samples are less than two KiwiSDR blocks; give n_samples of at least "
            f"{2 * BLOCK_SAMPLES}"
        )
    # Each block is rounded to nanoseconds by itself: a sum of rounded steps would drift.
    late_ns = np.rint(np.arange(n_blocks) * (BLOCK_SAMPLES * _NS / sample_rate_hz))
    stamps_ns = (start_gps_ns % WEEK_NS + late_ns.astype(np.int64)) % WEEK_NS
    blocks = np.zeros(n_blocks, block_layout(BLOCK_SAMPLES))
    blocks["kiwi"], blocks["kiwi_bytes"] = b"kiwi", STAMP_BYTES
    blocks["age_s"] = age_s
    blocks["gps_s"], blocks["gps_ns"] = stamps_ns // _NS, stamps_ns % _NS
    blocks["data"], blocks["data_bytes"] = b"data", _PAIR_BYTES * BLOCK_SAMPLES
    blocks["iq"] = iq[:, : n_blocks * BLOCK_SAMPLES].T.reshape(n_blocks, BLOCK_SAMPLES, 2)
    rate_hz = round(sample_rate_hz)
    header = HEADER.pack(
        b"RIFF",
        HEADER.size - _RIFF_HEAD_BYTES + blocks.nbytes,
        b"WAVE",
        b"fmt ",
        _FORMAT_BYTES,
        1,  # PCM
        2,  # channels, I and Q
        rate_hz,
        rate_hz * _PAIR_BYTES,
        _PAIR_BYTES,
        16,  # bits
    )
    return header + blocks.tobytes()


def measured_levels_db(iq: NDArray[np.int16], channel_share: float) -> tuple[float, float]:
    """Return signal to noise in the sampled band, and signal strength in dB of full scale.

    `channel_share` is the part of the sampled band, around its middle, that a signal may use.
    `iq` is `(2, n_samples)`. Both results are rounded to a hundredth of a dB.
    """
    n_segments = iq.shape[1] // _SEGMENT
    scaled = iq[:, : n_segments * _SEGMENT].astype(np.float32) / np.float32(FULL_SCALE)
    segments = (scaled[0] + 1j * scaled[1]).reshape(n_segments, _SEGMENT)
    # A Hann window keeps a strong carrier out of the bins where the noise is measured.
    window = np.hanning(_SEGMENT + 1)[:-1].astype(np.float32)
    spectra = np.fft.fft(segments * window, axis=1)
    power = (spectra.real**2 + spectra.imag**2).mean(axis=0, dtype=np.float64)
    power /= float(np.sum(window.astype(np.float64) ** 2)) * _SEGMENT
    outside = np.abs(np.fft.fftfreq(_SEGMENT)) > channel_share / 2
    noise_per_bin = float(np.mean(power[outside]))
    excess = float(np.sum(power[~outside] - noise_per_bin))
    noise = noise_per_bin * _SEGMENT
    signal = max(excess, noise * 10 ** (LEAST_SNR_DB / 10))
    return round(10 * np.log10(signal / noise), 2), round(10 * np.log10(signal), 2)
