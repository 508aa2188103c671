"""Receivers of one unknown waveform, each aligned with what the others hear together.

Every receiver hears the waveform at its own time, carrier offset, phase and level, in noise of
its own. The likelihood is greatest where the recordings, each weighted by its level over its
noise, add up to the most power; bins in which the sum is mostly noise count less. One receiver
at a time is moved to where it best fits the others' sum, by Newton's method.

Sources: W. R. Hahn and S. A. Tretter, "Optimum processing for delay-vector estimation in
passive signal arrays", IEEE Trans. IT 19 (1973), for the likelihood and for what its curvature
says of the delays; S. M. Kay, "Fundamentals of Statistical Signal Processing" I (1993),
section 7.7, for Newton's method on it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from heimdall_features.ambiguity import N_SEGMENTS, Fit, best_fit

__all__ = ["CommonWaveform"]

_NOISE_QUANTILE: Final = 0.4
"""Of the smoothed spectrum: below the signal, above the stop band of a receiver's filter."""
_SMOOTHING_BINS: Final = 129
_TAPER_LAGS: Final = 2.0
"""Where the ends of shifted recordings have nothing in common, nothing is compared."""
_MOST_STEP: Final = 0.5
"""Samples of lag, bins of offset; what is further away is no longer the same peak."""

Float64 = NDArray[np.float64]
Complex = NDArray[np.complexfloating]


class CommonWaveform:
    """Spectra of one waveform at several receivers, and how they lie to each other.

    Args:
        samples: `(receivers, n_samples)` complex, of one moment, at one rate, their carriers
            within the reach of `best_fit` of each other.
        rate_hz: that rate.
        bandwidth_hz: what is compared.
        longest_lag_s: no two receivers hear the waveform further apart.
    """

    def __init__(
        self, samples: Complex, rate_hz: float, bandwidth_hz: float, longest_lag_s: float
    ) -> None:
        # Imported here: it takes 0.4 s.
        import scipy.fft

        n_receivers, n_samples = samples.shape
        # Ends that do not meet would leak over all frequencies and drown the noise of the quiet.
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
        self.fit: list[Fit | None] = [None] * n_receivers
        self.fit_power = np.zeros(n_receivers)
        self.coupling = np.zeros(n_receivers)
        """How much of what is known of a delay goes into not knowing the carrier, as a share."""
        self.aligned = self.spectra.copy()
        # The ends' ramps are each receiver's own: compared, they would pull delays towards 0.
        n_lags = longest_lag_s * self.rate_hz
        self._taper = _taper(n_band, _TAPER_LAGS * n_lags, (_TAPER_LAGS + 1) * n_lags)

    def align(self, n_rounds: int = 2) -> None:
        """Find every receiver's delay, the strongest's being 0; those unheard are left out."""
        strongest_first = np.argsort(-(np.abs(self.gain) ** 2) / self.noise)
        heard = [int(strongest_first[0])]
        for receiver in map(int, strongest_first[1:]):
            self._find(receiver, heard)
            if (fit := self.fit[receiver]) is not None and fit.is_arrival:
                heard.append(receiver)
        for _ in range(n_rounds):
            self._weigh(heard)
            for receiver in heard:
                self._improve(receiver, [other for other in heard if other != receiver])
        self._weigh(heard)

    @property
    def heard(self) -> NDArray[np.bool_]:
        """Which receivers' arrivals stand above noise; the strongest's if any other's does."""
        found = np.array(
            [
                fit is not None and fit.is_arrival and fit.is_power(power)
                for fit, power in zip(self.fit, self.fit_power, strict=True)
            ]
        )
        strongest = int(np.argmax([fit is None for fit in self.fit]))
        found[strongest] = found.any()
        return found

    def snr(self) -> Float64:
        """Signal to noise in each bin at each receiver, `(receivers, bins)`."""
        over_noise: Float64 = np.abs(self.gain) ** 2 / self.noise
        return over_noise[:, None] * self._waveform_power()

    def information(self) -> Float64:
        """Fisher information of each delay, were the time of emission known, in 1/s^2.

        For signal to noise that differs between receivers by factors alone, these and an
        unknown time of emission say all that Hahn and Tretter's matrix says.
        """
        weights = self.snr() * self.weight
        frequency = self.turn.imag
        middle = (weights @ frequency) / np.maximum(weights.sum(axis=1), 1e-30)
        information: Float64 = 2 * np.sum(weights * (frequency - middle[:, None]) ** 2, axis=1)
        return information * (1 - self.coupling)

    def misfit(self) -> Float64:
        """What remains of each receiver beside the others' waveform, over the noise expected.

        1 where all is noise; more where echoes, fading or strangers are heard, `(receivers,)`.
        """
        import scipy.fft

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
        """The receivers' weighted sum, and its gain over the waveform."""
        weights = self.gain[receivers].conj() / self.noise[receivers]
        strength = float(np.sum(np.abs(self.gain[receivers]) ** 2 / self.noise[receivers]))
        return weights @ self.aligned[receivers], strength

    def _waveform_power(self) -> Float64:
        """Of the common waveform, smoothed over frequency, `(bins,)`."""
        total, strength = self._sum([int(one) for one in np.flatnonzero(self.heard)] or [0])
        return np.maximum(smoothed(np.abs(total) ** 2) / strength - 1, 0) / strength

    def _weigh(self, heard: list[int]) -> None:
        """What of each bin of the sum is the waveform's: the weights of a Wiener filter."""
        total, strength = self._sum(heard)
        over_noise = np.maximum(smoothed(np.abs(total) ** 2) / strength - 1, 0)
        self.weight = over_noise / (1 + over_noise)

    def _find(self, receiver: int, heard: list[int]) -> None:
        import scipy.fft

        reference, strength = self._sum(heard)
        longest = int(np.ceil(self.longest_lag_s * self.rate_hz))
        found = best_fit(
            scipy.fft.ifft(self.spectra[receiver]),
            scipy.fft.ifft(reference * self.weight),
            min(longest, self.time_s.size // (2 * N_SEGMENTS)),
        )
        self.fit[receiver] = found
        self.delay_s[receiver] = found.lag / self.rate_hz
        self.offset_hz[receiver] = found.cycles_per_sample * self.rate_hz
        for _ in range(3):
            self._step(receiver, reference)
        self.aligned[receiver] = self._realigned(receiver)
        self._measure_gain(receiver, reference, strength, 0.0)

    def _improve(self, receiver: int, others: list[int]) -> None:
        if not others:
            return
        reference, strength = self._sum(others)
        self._step(receiver, reference)
        self.aligned[receiver] = self._realigned(receiver)
        self._measure_gain(receiver, reference, strength, strength)

    def _step(self, receiver: int, reference: Complex) -> None:
        """One step of Newton's method on delay and carrier offset together.

        Speech over FM makes ridges, along which a later signal of a higher carrier fits as
        well: one by one the two would creep.
        """
        import scipy.fft

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
        curvature = (
            np.array(
                [
                    [abs(later) ** 2, (later.conj() * higher).real],
                    [(later.conj() * higher).real, abs(higher) ** 2],
                ]
            )
            + np.array([[bend, both], [both, spread]], dtype=complex).dot(first.conj()).real
        )
        self._climb(receiver, gradient, curvature)

    def _climb(self, receiver: int, gradient: Float64, curvature: Float64) -> None:
        """To the top of the parabola, if there is one, and not beyond the peak in sight."""
        determinant = curvature[0, 0] * curvature[1, 1] - curvature[0, 1] ** 2
        if not (curvature[0, 0] < 0 < determinant):
            return
        self.coupling[receiver] = curvature[0, 1] ** 2 / (curvature[0, 0] * curvature[1, 1])
        delay, offset = -np.linalg.solve(curvature, gradient)
        within = max(
            abs(delay) * self.rate_hz / _MOST_STEP,
            abs(offset) * self.time_s.size / self.rate_hz / _MOST_STEP,
            1.0,
        )
        self.delay_s[receiver] += delay / within
        self.offset_hz[receiver] += offset / within

    def _realigned(self, receiver: int) -> Complex:
        import scipy.fft

        shifted = scipy.fft.ifft(
            self.spectra[receiver] * np.exp(self.turn * self.delay_s[receiver])
        )
        shifted *= np.exp(-2j * np.pi * self.offset_hz[receiver] * self.time_s)
        aligned: Complex = scipy.fft.fft(shifted)
        return aligned

    def _measure_gain(
        self, receiver: int, reference: Complex, strength: float, noise: float
    ) -> None:
        """The receiver's gain over the waveform, `noise` being that of the reference a bin."""
        weighted = reference * self.weight
        power = np.vdot(weighted, reference).real
        power = max(power - noise * self.weight.sum(), 1e-9 * power, 1e-30)
        fit = np.vdot(weighted, self.aligned[receiver])
        self.gain[receiver] = fit / power * strength
        alone = self.noise[receiver] * np.vdot(weighted, weighted).real
        self.fit_power[receiver] = abs(fit) ** 2 / max(alone, 1e-30)


def smoothed(power: NDArray[np.floating], width: int = _SMOOTHING_BINS) -> Float64:
    """The mean over `width` neighbours of each bin, the spectrum being a ring."""
    width = min(width, 1 + 2 * (power.size // 8))
    padded = np.pad(power.astype(np.float64), width // 2, mode="wrap")
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    return np.asarray((sums[width:] - sums[:-width]) / width, dtype=np.float64)


def _taper(n_samples: int, n_ramp: float, n_silent: float = 0.0) -> Float64:
    """1 within, falling to 0 towards both ends, of which the last samples are silent."""
    away = np.minimum(np.arange(n_samples), np.arange(n_samples)[::-1]) + 0.5
    rise = np.clip((away - n_silent) / max(n_ramp, 1.0), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * rise) ** 2, dtype=np.float64)
