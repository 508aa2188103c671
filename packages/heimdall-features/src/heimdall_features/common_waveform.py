"""Receivers of one unknown waveform, each aligned with the sum of the others.

Each receiver hears the waveform with its own delay, carrier offset, phase, level and noise. The
likelihood is greatest where the recordings, each weighted by its level over its noise, add up to
the most power; bins in which the sum is mostly noise count less. One receiver at a time is moved
to its best fit to the sum of the others, by Newton's method.

The first guess comes from the ambiguity function: the cross-correlation of each short segment
shows the lag, and the turn of its phase from segment to segment shows the remaining offset. The
guess is the highest cell over lag and offset.

Sources: W. R. Hahn and S. A. Tretter, "Optimum processing for delay-vector estimation in passive
signal arrays", IEEE Trans. IT 19 (1973), for the likelihood and the information that its
curvature gives about the delays; S. M. Kay, "Fundamentals of Statistical Signal Processing" I
(1993), section 7.7, for Newton's method; S. Stein, "Algorithms for ambiguity function
processing", IEEE Trans. ASSP 29 (1981).
"""

import itertools
import math
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from heimdall_features.clock import smoothed

_NOISE_QUANTILE: Final = 0.4
"""Quantile of the smoothed spectrum between the signal and the stop band of a receiver's filter."""
_TAPER_LAGS: Final = 2.0
"""Ends tapered off, in longest lags: there, shifted recordings have nothing in common."""
_LARGEST_STEP: Final = 0.5
"""In samples of lag or bins of offset; a larger step would leave the peak."""
_N_SEGMENTS: Final = 64
"""Offsets are searched up to half this multiple of the recording's resolution, up and down."""
_OFFSETS_PER_BIN: Final = 4
"""Grid points of the offset per resolution of the recording."""
_FALSE_ALARM: Final = 1e-3
"""Probability that noise alone passes for an arrival."""

Float64 = NDArray[np.float64]
Complex = NDArray[np.complexfloating]


class CommonWaveform:
    """Spectra of one waveform at several receivers, and their alignment.

    Args:
        samples: `(receivers, n_samples)` complex, simultaneous, at one rate, with carriers close
            enough for the first guess.
        rate_hz: That rate.
        bandwidth_hz: Compared band.
        longest_lag_s: Largest difference of arrival times.
    """

    def __init__(
        self, samples: Complex, rate_hz: float, bandwidth_hz: float, longest_lag_s: float
    ) -> None:
        n_receivers, n_samples = samples.shape
        # Ends that do not meet would leak over all frequencies, above the noise of quiet ones.
        ends = _taper(n_samples, _TAPER_LAGS * longest_lag_s * rate_hz).astype(np.float32)
        spectra = scipy.fft.fft(samples * ends, axis=1)
        power = np.array([smoothed(np.abs(spectrum) ** 2) for spectrum in spectra])
        n_band = min(scipy.fft.next_fast_len(round(n_samples * bandwidth_hz / rate_hz)), n_samples)
        bins = np.r_[0 : n_band - n_band // 2, n_samples - n_band // 2 : n_samples]
        self.rate_hz = rate_hz * n_band / n_samples
        self.spectra = spectra[:, bins]
        self.turn = 2j * np.pi * np.fft.fftfreq(n_samples, 1 / rate_hz)[bins]
        self.time_s = (np.arange(n_band) - (n_band - 1) / 2) / self.rate_hz
        self.longest_lag_s = longest_lag_s
        self.noise = np.maximum(np.quantile(power, _NOISE_QUANTILE, axis=1), 1e-30)
        excess = np.maximum(power - self.noise[:, None], 0)[:, bins]
        total = (excess / self.noise[:, None]).sum(axis=0)
        self.weight = total / (1 + total)
        self.gain = np.sqrt(excess.mean(axis=1)).astype(np.complex128)
        self.delay_s = np.zeros(n_receivers)
        self.offset_hz = np.zeros(n_receivers)
        self.fit_power = np.zeros(n_receivers)
        self.least_power = np.full(n_receivers, np.inf)
        """Fit power above which an arrival stands out of noise."""
        self._strongest_first = np.argsort(-(np.abs(self.gain) ** 2) / self.noise)
        self.coupling = np.zeros(n_receivers)
        """Share of the information about a delay that the unknown carrier offset takes away."""
        self.aligned = self.spectra.copy()
        # The ramps at the ends are not shifted with the signal and would pull delays towards 0.
        n_lags = longest_lag_s * self.rate_hz
        self._taper = _taper(n_band, _TAPER_LAGS * n_lags, (_TAPER_LAGS + 1) * n_lags)

    def align(self, n_rounds: int = 2) -> None:
        """Find the delay of each receiver after the strongest one; leave out those not heard."""
        heard = [int(self._strongest_first[0])]
        for receiver in map(int, self._strongest_first[1:]):
            self._find(receiver, heard)
            if self.least_power[receiver] < np.inf:
                heard.append(receiver)
        for _ in range(n_rounds):
            self._weigh(heard)
            for receiver in heard if len(heard) > 1 else ():
                reference, strength = self._sum([other for other in heard if other != receiver])
                self._step(receiver, reference)
                self._realign(receiver, reference, strength, strength)
        self._weigh(heard)

    @property
    def heard(self) -> NDArray[np.bool_]:
        """Receivers whose arrival is above noise; the strongest counts if any other does."""
        heard: NDArray[np.bool_] = self.fit_power > self.least_power
        heard[self._strongest_first[0]] = heard.any()
        return heard

    def snr(self) -> Float64:
        """Signal to noise in each bin at each receiver, `(receivers, bins)`."""
        total, strength = self._sum([int(one) for one in np.flatnonzero(self.heard)] or [0])
        power = np.maximum(smoothed(np.abs(total) ** 2) / strength - 1, 0) / strength
        over_noise: Float64 = np.abs(self.gain) ** 2 / self.noise
        return over_noise[:, None] * power

    def information(self) -> Float64:
        """Fisher information of each delay for a known time of emission, in 1/s^2.

        If signal-to-noise ratios differ between receivers only by factors, this and an unknown
        time of emission are equivalent to Hahn and Tretter's matrix.
        """
        weights = self.snr() * self.weight
        frequency = self.turn.imag
        middle = (weights @ frequency) / np.maximum(weights.sum(axis=1), 1e-30)
        information: Float64 = 2 * np.sum(weights * (frequency - middle[:, None]) ** 2, axis=1)
        return information * (1 - self.coupling)

    def misfit(self) -> Float64:
        """Residual of each receiver from the others' waveform, over the expected noise power.

        1 for noise alone; more with echoes, fading or other transmitters. `(receivers,)`.
        """
        heard = [int(one) for one in np.flatnonzero(self.heard)]
        share = float(np.mean(self._taper**2) * self.weight.sum())
        ratio = np.ones(len(self.gain))
        for receiver in heard:
            reference, strength = self._sum([other for other in heard if other != receiver])
            rest = self.aligned[receiver] - self.gain[receiver] / strength * reference
            rest = scipy.fft.ifft(rest * np.sqrt(self.weight), norm="ortho") * self._taper
            expected = self.noise[receiver] + np.abs(self.gain[receiver]) ** 2 / strength
            ratio[receiver] = np.sum(np.abs(rest) ** 2) / (expected * share)
        return ratio

    def _sum(self, receivers: list[int]) -> tuple[Complex, float]:
        """Weighted sum of the receivers, and its gain over the waveform."""
        weights = self.gain[receivers].conj() / self.noise[receivers]
        strength = float(np.sum(np.abs(self.gain[receivers]) ** 2 / self.noise[receivers]))
        return weights @ self.aligned[receivers], strength

    def _weigh(self, heard: list[int]) -> None:
        """Set each bin's weight to the waveform's share of the sum (Wiener filter)."""
        total, strength = self._sum(heard)
        over_noise = np.maximum(smoothed(np.abs(total) ** 2) / strength - 1, 0)
        self.weight = over_noise / (1 + over_noise)

    def _find(self, receiver: int, heard: list[int]) -> None:
        reference, strength = self._sum(heard)
        longest = int(np.ceil(self.longest_lag_s * self.rate_hz))
        lag, cycles_per_sample, self.least_power[receiver] = _best_fit(
            scipy.fft.ifft(self.spectra[receiver]),
            scipy.fft.ifft(reference * self.weight),
            min(longest, self.time_s.size // (2 * _N_SEGMENTS)),
        )
        self.delay_s[receiver] = lag / self.rate_hz
        self.offset_hz[receiver] = cycles_per_sample * self.rate_hz
        for _ in range(3):
            self._step(receiver, reference)
        self._realign(receiver, reference, strength, 0.0)

    def _step(self, receiver: int, reference: Complex) -> None:
        """Move delay and carrier offset by one step of Newton's method, together.

        Speech over FM has ridges on which a later signal with a higher carrier fits as well; one
        parameter at a time would converge slowly.
        """
        model = scipy.fft.ifft(reference * self.weight).conj() * self._taper
        model *= np.exp(-2j * np.pi * self.offset_hz[receiver] * self.time_s)
        shifted = self.spectra[receiver] * np.exp(self.turn * self.delay_s[receiver])
        slopes = [scipy.fft.ifft(shifted * self.turn**k) for k in range(3)]
        spin = -2j * np.pi * self.time_s
        first, later, bend = (np.sum(model * slope) for slope in slopes)
        model *= spin
        higher, both = (np.sum(model * slope) for slope in slopes[:2])
        spread = np.sum(model * spin * slopes[0])
        gradient = np.array([(first.conj() * part).real for part in (later, higher)])
        mixed = (later.conj() * higher).real
        curvature = (
            np.array([[abs(later) ** 2, mixed], [mixed, abs(higher) ** 2]])
            + np.array([[bend, both], [both, spread]], dtype=complex).dot(first.conj()).real
        )
        determinant = curvature[0, 0] * curvature[1, 1] - curvature[0, 1] ** 2
        if not (curvature[0, 0] < 0 < determinant):
            return  # no maximum near by
        self.coupling[receiver] = curvature[0, 1] ** 2 / (curvature[0, 0] * curvature[1, 1])
        delay, offset = -np.linalg.solve(curvature, gradient)
        within = max(
            abs(delay) * self.rate_hz / _LARGEST_STEP,
            abs(offset) * self.time_s.size / self.rate_hz / _LARGEST_STEP,
            1.0,
        )
        self.delay_s[receiver] += delay / within
        self.offset_hz[receiver] += offset / within

    def _realign(self, receiver: int, reference: Complex, strength: float, noise: float) -> None:
        """Apply delay and offset, and measure the gain; `noise` is the reference's, per bin."""
        shifted = scipy.fft.ifft(
            self.spectra[receiver] * np.exp(self.turn * self.delay_s[receiver])
        )
        shifted *= np.exp(-2j * np.pi * self.offset_hz[receiver] * self.time_s)
        self.aligned[receiver] = scipy.fft.fft(shifted)
        weighted = reference * self.weight
        power = np.vdot(weighted, reference).real
        power = max(power - noise * self.weight.sum(), 1e-9 * power, 1e-30)
        fit = np.vdot(weighted, self.aligned[receiver])
        self.gain[receiver] = fit / power * strength
        alone = self.noise[receiver] * np.vdot(weighted, weighted).real
        self.fit_power[receiver] = abs(fit) ** 2 / max(alone, 1e-30)


def _best_fit(signal: Complex, reference: Complex, longest_lag: int) -> tuple[int, float, float]:
    """Highest cell of the ambiguity function of a signal and a reference, both `(n_samples,)`.

    Returns:
        Samples by which the signal is later; its carrier minus the reference's, in cycles per
        sample; and the power, relative to noise, above which a fit is an arrival: infinite if
        the cell itself could be noise. Cells of noise have a Rayleigh distribution.
    """
    edges = np.linspace(0, signal.size, _N_SEGMENTS + 1).astype(np.intp)
    size = scipy.fft.next_fast_len(int(np.diff(edges).max()) + 2 * longest_lag)
    shifts = np.arange(-longest_lag, longest_lag + 1)
    rows = []
    for begin, end in itertools.pairwise(edges):
        first = max(int(begin) - longest_lag, 0)
        wide = scipy.fft.fft(signal[first : end + longest_lag], size)
        narrow = scipy.fft.fft(reference[begin:end], size)
        correlation = scipy.fft.ifft(wide * narrow.conj())
        rows.append(correlation[(shifts + begin - first) % size])
    cells = np.abs(scipy.fft.fft(np.array(rows), _N_SEGMENTS * _OFFSETS_PER_BIN, axis=0))
    offset, lag = np.unravel_index(int(np.argmax(cells)), cells.shape)
    middle = float(np.median(cells))
    height = float(cells[offset, lag]) / middle if middle > 0 else 0.0
    threshold = math.sqrt(math.log(cells.size / _FALSE_ALARM) / math.log(2))
    return (
        int(lag) - longest_lag,
        float(np.fft.fftfreq(len(cells))[offset]) * _N_SEGMENTS / signal.size,
        # The median of a Rayleigh distribution is at the power ln 2.
        threshold**2 * math.log(2) if height > threshold else math.inf,
    )


def _taper(n_samples: int, n_ramp: float, n_silent: float = 0.0) -> Float64:
    """1 in the middle, falling to 0 towards both ends, whose last samples are silent."""
    away = np.minimum(np.arange(n_samples), np.arange(n_samples)[::-1]) + 0.5
    rise = np.clip((away - n_silent) / max(n_ramp, 1.0), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * rise) ** 2, dtype=np.float64)
