"""Receivers of one unknown waveform, each aligned with the sum of the others.

Each receiver hears the waveform with its own delay, carrier offset, phase, level and noise. The
likelihood is greatest where the recordings, each weighted by its level over its noise, add up to
the most power; bins in which the sum is mostly noise count less. One receiver at a time is moved
to its best fit to the sum of the others, by Newton's method. Single precision is enough: rounding
is 120 dB below the signal.

The first guess comes from the ambiguity function: the cross-correlation of each short segment
shows the lag, and the turn of its phase from segment to segment shows the remaining offset. The
guess is the highest cell over lag and offset. If the function is higher beyond the longest lag, the
true one is not between them, and there is no arrival.

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

from heimdall_features.clock import phasor, smoothed
from heimdall_features.coherent_error import Scatter, coherent_variance

_NOISE_QUANTILE: Final = 0.4
"""Quantile of the smoothed spectrum between the signal and the stop band of a receiver's filter."""
_EVERY_BIN: Final = 16
"""Bins of a smoothed spectrum per value that the quantile is taken of."""
_BINS_PER_BLOCK: Final = 128
"""As many as are smoothed elsewhere: powers of noise vary by 9 %."""
_LEAST_SHARE: Final = 0.1
"""Share of the band without a common signal from which noise can be measured."""
_QUIET_QUANTILE: Final = 0.5
"""Quantile of the power there: neither other transmitters nor the stop band are its noise."""
_NOISIER: Final = 2.0
"""Factor below which a difference from the stop band is chance."""
_LEAST_PART: Final = 0.05
"""Least noise of a receiver in the difference from the one that it differs least from."""
_TAPER_LAGS: Final = 2.0
"""Ends tapered off, in longest lags: there, shifted recordings have nothing in common."""
_LARGEST_STEP: Final = 0.5
"""In samples of lag or bins of offset; a larger step would leave the peak."""
_SMALL_STEP: Final = 0.03
"""After a step this small, the next one is a thousandth: errors of Newton's method are squared."""
_N_SEGMENTS: Final = 64
"""Offsets are searched up to half this multiple of the recording's resolution, up and down."""
_OFFSETS_PER_BIN: Final = 4
"""Grid points of the offset per resolution of the recording."""
_FALSE_ALARM: Final = 1e-3
"""Probability that noise alone passes for an arrival."""
_LONGEST_ECHO_S: Final = 0.01
"""A wave that is reflected several times between ionosphere and ground is 5 ms late, and may be
stronger than the direct one."""
IMPOSSIBLE_SIGMAS: Final = 5.0
"""Standard deviations of noise beyond the longest lag from which a lag is impossible: never by
chance, also for a transmitter in line with the two receivers that are farthest apart."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]


class CommonWaveform:
    """Spectra of one waveform at several receivers, and their alignment.

    Args:
        samples: `(receivers, n_samples)` complex, simultaneous, at one rate, with carriers close
            enough for the first guess.
        rate_hz: That rate.
        bandwidth_hz: Compared band.
        longest_lag_s: Largest difference of arrival times.
        slack_s: By as much, errors of clocks may exceed it.
    """

    def __init__(
        self,
        samples: Complex64,
        rate_hz: float,
        bandwidth_hz: float,
        longest_lag_s: float,
        slack_s: float = 0.0,
    ) -> None:
        # Largest length of a quick transform.
        n_samples = samples.shape[1]
        while scipy.fft.next_fast_len(n_samples) > n_samples:
            n_samples -= 1
        n_receivers, samples = len(samples), samples[:, :n_samples]
        # Ends that do not meet would leak over all frequencies, above the noise of quiet ones.
        spectra = scipy.fft.fft(samples * _taper(n_samples, _TAPER_LAGS * longest_lag_s * rate_hz))
        power = smoothed(np.square(spectra.real) + np.square(spectra.imag))
        n_band = min(scipy.fft.next_fast_len(round(n_samples * bandwidth_hz / rate_hz)), n_samples)
        bins = np.r_[0 : n_band - n_band // 2, n_samples - n_band // 2 : n_samples]
        self.rate_hz = rate_hz * n_band / n_samples
        self.spectra = spectra[:, bins]
        frequency_hz = np.fft.fftfreq(n_samples, 1 / rate_hz)[bins]
        self._turn = (2j * np.pi / self.rate_hz * frequency_hz).astype(np.complex64)
        """Change of phase at each bin by a delay of one sample of the band."""
        self._time = ((np.arange(n_band) - (n_band - 1) / 2) / n_band).astype(np.float32)
        """Time in durations of the recording, from its middle."""
        self.longest_lag_s, self.slack_s = longest_lag_s, slack_s
        # The smoothed spectrum needs no more than some values of each average.
        quiet = np.quantile(power[:, ::_EVERY_BIN], _NOISE_QUANTILE, axis=1)
        self.noise = np.maximum(quiet, 1e-30)
        excess = np.maximum(power[:, bins] - self.noise[:, None], 0)
        total = (excess / self.noise[:, None]).sum(axis=0)
        self.weight = (total / (1 + total)).astype(np.float32)
        self.gain = np.sqrt(excess.mean(axis=1)).astype(np.complex128)
        self.delay_s = np.zeros(n_receivers)
        self.offset_hz = np.zeros(n_receivers)
        self.fit_power = np.zeros(n_receivers)
        self.least_power = np.full(n_receivers, np.inf)
        """Fit power above which an arrival stands out of noise."""
        self.beyond = np.zeros(n_receivers, np.bool_)
        """Receivers whose best fit is beyond the longest lag."""
        self.strongest, *self._weaker = np.argsort(-(np.abs(self.gain) ** 2) / self.noise).tolist()
        self.coupling = np.zeros(n_receivers)
        """Share of the information about a delay that the unknown carrier offset takes away."""
        self.aligned = self.spectra.copy()
        # The ramps at the ends are not shifted with the signal and would pull delays towards 0.
        n_lags = longest_lag_s * self.rate_hz
        self._taper = _taper(n_band, _TAPER_LAGS * n_lags, (_TAPER_LAGS + 1) * n_lags)

    def align(self, n_rounds: int = 2) -> None:
        """Find the delay of each receiver after the strongest one; leave out those not heard."""
        heard = [self.strongest]
        for receiver in self._weaker:
            self._find(receiver, heard)
            if self.least_power[receiver] < np.inf:
                heard.append(receiver)
        if len(heard) == 1:
            # It contradicts those that are beyond as much as they do it.
            self.beyond[heard] = self.beyond.any()
        for number in range(n_rounds):
            if number > 0:
                self._measure_noise(heard)
            self._weigh(heard)
            for receiver in heard if len(heard) > 1 else ():
                reference, strength = self._sum([other for other in heard if other != receiver])
                self._step(receiver, scipy.fft.ifft(reference * self.weight))
                self._realign(receiver, reference, strength, strength)
        self._weigh(heard)

    @property
    def heard(self) -> NDArray[np.bool_]:
        """Receivers whose arrival is above noise; the strongest counts if any other does."""
        heard: NDArray[np.bool_] = self.fit_power > self.least_power
        heard[self.strongest] = heard.any()
        return heard

    def snr(self) -> Float64:
        """Signal to noise in each bin at each receiver, `(receivers, bins)`."""
        total, strength = self._sum([int(one) for one in np.flatnonzero(self.heard)] or [0])
        power = self._over_noise(total, strength) / strength
        over_noise: Float64 = np.abs(self.gain) ** 2 / self.noise
        return over_noise[:, None] * power

    def information(self) -> Float64:
        """Fisher information of each delay for a known time of emission, in 1/s^2.

        If signal-to-noise ratios differ between receivers only by factors, this and an unknown
        time of emission are equivalent to Hahn and Tretter's matrix.
        """
        weights = self.snr() * self.weight
        frequency = self.rate_hz * self._turn.imag.astype(np.float64)
        middle = (weights * frequency).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-30)
        information: Float64 = 2 * np.sum(weights * (frequency - middle[:, None]) ** 2, axis=1)
        return information * (1 - self.coupling)

    def errors(self) -> tuple[Float64, Float64, Float64]:
        """Residual of each receiver from the others' waveform, and the delay error that it shows.

        Returns:
            Residual power over that of noise: 1 for noise alone; more with echoes, fading or
            other transmitters. The variance of the delay beyond noise, for which every such
            power counts as noise (`coherent_error`), in s^2. And the log-likelihood that the
            receiver would gain by a lag at which neither it nor an echo can be. All
            `(receivers,)`.
        """
        heard = [int(one) for one in np.flatnonzero(self.heard)]
        share = float(np.mean(self._taper**2) * self.weight.sum())
        near = math.ceil((self.longest_lag_s + _LONGEST_ECHO_S) * self.rate_hz)
        misfit, variance, gained = np.ones(len(self.gain)), *np.zeros((2, len(self.gain)))
        scatters, n_errors = [], []
        for receiver in heard:
            others = [other for other in heard if other != receiver]
            reference, strength = self._sum(others)
            series = np.empty((2, self._time.size), np.complex64)
            series[0] = np.complex64(self.gain[receiver] / strength) * reference
            series[1] = self.aligned[receiver] - series[0]
            series *= np.sqrt(self.weight)
            fits = np.abs(scipy.fft.ifft(series[0].conj() * series.sum(axis=0), norm="forward"))
            matched = float(np.sum(np.square(np.abs(series[0])) * self.weight))
            waveform, rest = scipy.fft.ifft(series, norm="ortho", overwrite_x=True) * self._taper
            of_others = float(np.abs(self.gain[receiver]) ** 2 / strength)
            expected = float(self.noise[receiver]) + of_others
            power = np.square(rest.real) + np.square(rest.imag)
            misfit[receiver] = float(power.sum()) / (expected * share)
            gain = float(fits[near:-near].max(initial=0.0)) ** 2 - float(fits[0]) ** 2
            gained[receiver] = gain / max(matched * expected * misfit[receiver], 1e-30)
            scatters.append(
                Scatter.of(waveform, rest, self.weight, expected * misfit[receiver], of_others)
            )
            # The others' own errors are in their sum, by their shares of it.
            shares = np.abs(self.gain[others]) ** 2 / self.noise[others] / strength
            n_errors.append(1 + np.sum(shares**2))
        if heard:
            variance[heard] = coherent_variance(scatters) / np.array(n_errors) / self.rate_hz**2
        return misfit, variance, gained

    def _sum(self, receivers: list[int]) -> tuple[Complex64, float]:
        """Weighted sum of the receivers, and its gain over the waveform."""
        total = np.zeros_like(self._turn)
        for receiver in receivers:  # a product of matrices would start threads
            weight = np.complex64(self.gain[receiver].conj() / self.noise[receiver])
            total += weight * self.aligned[receiver]
        return total, float(np.sum(np.abs(self.gain[receivers]) ** 2 / self.noise[receivers]))

    def _over_noise(self, total: Complex64, strength: float) -> Float64:
        """Waveform over noise in a sum, in each bin."""
        power = smoothed(np.square(total.real) + np.square(total.imag))
        return np.maximum(power / strength - 1, 0)

    def _measure_noise(self, heard: list[int]) -> None:
        """Raise the noise of receivers to what is in the band but not in other receivers.

        A filter's stop band shows less noise than there is in the band: by 55 dB in recordings
        of long waves. Pairs of aligned receivers, scaled to the waveform, differ by the sum of
        their noises where no signal is; an echo is not taken for noise.
        """
        block = min(_BINS_PER_BLOCK, max(self._turn.size // 64, 1))
        scaled = [self.aligned[one] / np.complex64(self.gain[one]) for one in heard]
        assumed = self.noise[heard] / np.abs(self.gain[heard]) ** 2
        powers = [_block_means(one, block) for one in scaled]
        found = np.add.outer(assumed, assumed)
        for one, other in itertools.combinations(range(len(heard)), 2):
            difference = _block_means(scaled[one] - scaled[other], block)
            differs = difference > (powers[one] + powers[other]) / 2
            if differs.mean() > _LEAST_SHARE:
                noise = float(np.quantile(difference[differs], _QUIET_QUANTILE))
                if noise > _NOISIER * found[one, other]:
                    found[one, other] = found[other, one] = noise
        if len(heard) < 3:
            share = assumed / assumed.sum() if assumed.sum() > 0 else assumed
            solved = share * found[0, -1]
        else:
            # Least squares for the noise of each, of which all pairs hold the sums.
            np.fill_diagonal(found, 0)
            sums = found.sum(axis=1)
            solved = (sums - sums.sum() / (2 * len(heard) - 2)) / (len(heard) - 2)
            # A difference of larger sums is no better known than they are.
            np.fill_diagonal(found, np.inf)
            solved = np.maximum(solved, _LEAST_PART * found.min(axis=1))
        self.noise[heard] *= np.where(solved > _NOISIER * assumed, solved / assumed, 1.0)

    def _weigh(self, heard: list[int]) -> None:
        """Set each bin's weight to the waveform's share of the sum (Wiener filter)."""
        over_noise = self._over_noise(*self._sum(heard))
        self.weight = (over_noise / (1 + over_noise)).astype(np.float32)

    def _find(self, receiver: int, heard: list[int]) -> None:
        reference, strength = self._sum(heard)
        longest = math.ceil(self.longest_lag_s * self.rate_hz)
        model = scipy.fft.ifft(reference * self.weight)
        lag, cycles_per_sample, self.least_power[receiver] = _best_fit(
            scipy.fft.ifft(self.spectra[receiver]),
            model,
            longest,
            longest + 2 + math.ceil(self.slack_s * self.rate_hz),
        )
        if abs(lag) > longest:
            self.beyond[receiver] = True
            return
        self.delay_s[receiver] = lag / self.rate_hz
        self.offset_hz[receiver] = cycles_per_sample * self.rate_hz
        for _ in range(3):
            if self._step(receiver, model) < _SMALL_STEP:
                break
        self._realign(receiver, reference, strength, noise=strength)

    def _shifted(self, receiver: int) -> Complex64:
        """Spectrum without the receiver's delay, but with its carrier offset."""
        n_bins = self._turn.size
        cycles = self.delay_s[receiver] * self.rate_hz / n_bins
        n_positive = n_bins - n_bins // 2
        shifted: Complex64 = self.spectra[receiver] * np.concatenate(
            [phasor(n_positive, cycles), phasor(n_bins // 2, cycles, -(n_bins // 2))]
        )
        return shifted

    def _carrier(self, receiver: int) -> Complex64:
        """The receiver's carrier after removing its offset, over the carrier before, in time."""
        n_samples = self._time.size
        return phasor(n_samples, -self.offset_hz[receiver] / self.rate_hz, -(n_samples - 1) / 2)

    def _step(self, receiver: int, model: Complex64) -> float:
        """Move delay and offset towards the best fit to a waveform: one step of Newton's method.

        Speech over FM has ridges on which a later signal with a higher carrier fits as well; one
        parameter at a time would converge slowly. Returns the step's length in samples or bins,
        whichever is larger.
        """
        model = model.conj() * self._taper * self._carrier(receiver)
        slopes = np.empty((3, model.size), np.complex64)
        slopes[0] = self._shifted(receiver)
        np.multiply(slopes[0], self._turn, out=slopes[1])
        np.multiply(slopes[1], self._turn, out=slopes[2])
        slopes = scipy.fft.ifft(slopes, overwrite_x=True) * model
        first, later, bend = map(complex, slopes.sum(axis=1))
        slopes[:2] *= np.complex64(-2j * np.pi) * self._time
        higher, both = map(complex, slopes[:2].sum(axis=1))
        spread = -2j * np.pi * complex((slopes[0] * self._time).sum())
        gradient = np.array([(first.conjugate() * part).real for part in (later, higher)])
        mixed = (later.conjugate() * higher).real
        curvature = (
            np.array([[abs(later) ** 2, mixed], [mixed, abs(higher) ** 2]])
            + np.array([[bend, both], [both, spread]]).dot(first.conjugate()).real
        )
        determinant = curvature[0, 0] * curvature[1, 1] - curvature[0, 1] ** 2
        if not (curvature[0, 0] < 0 < determinant):
            return 0.0  # no maximum near by
        self.coupling[receiver] = curvature[0, 1] ** 2 / (curvature[0, 0] * curvature[1, 1])
        step = -np.linalg.solve(curvature, gradient)
        length = float(np.abs(step).max())
        step /= max(length / _LARGEST_STEP, 1.0)
        self.delay_s[receiver] += step[0] / self.rate_hz
        self.offset_hz[receiver] += step[1] * self.rate_hz / self._time.size
        return length

    def _realign(self, receiver: int, reference: Complex64, strength: float, noise: float) -> None:
        """Apply delay and offset, and measure the gain; `noise` is the reference's, per bin."""
        in_time = scipy.fft.ifft(self._shifted(receiver)) * self._carrier(receiver)
        self.aligned[receiver] = scipy.fft.fft(in_time, overwrite_x=True)
        weighted = (reference * self.weight).conj()
        power = float((weighted * reference).real.sum())
        power = max(power - noise * float(self.weight.sum()), 1e-9 * power, 1e-30)
        fit = complex((weighted * self.aligned[receiver]).sum())
        self.gain[receiver] = fit / power * strength
        alone = self.noise[receiver] * float(np.square(np.abs(weighted)).sum())
        self.fit_power[receiver] = abs(fit) ** 2 / max(alone, 1e-30)


def _best_fit(
    signal: Complex64, reference: Complex64, longest_lag: int, beyond: int
) -> tuple[int, float, float]:
    """Highest cell of the ambiguity function of a signal and a reference, both `(n_samples,)`.

    Returns:
        Samples by which the signal is later, at most the longest lag or, if that is likelier by
        more than noise, the one beyond; its carrier minus the reference's, in cycles per sample;
        and the power, relative to noise, above which a fit is an arrival: infinite if the cell
        itself could be noise. Cells of noise have a Rayleigh distribution.
    """
    length, margin = signal.size // _N_SEGMENTS, beyond - longest_lag
    n_around = length + 2 * beyond
    size = scipy.fft.next_fast_len(n_around)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(signal, beyond), n_around)
    wide = scipy.fft.fft(around[: _N_SEGMENTS * length : length], size)
    narrow = scipy.fft.fft(reference[: _N_SEGMENTS * length].reshape(-1, length), size)
    by_lag = scipy.fft.ifft(wide * narrow.conj(), overwrite_x=True)[:, : 2 * beyond + 1].T
    cells = np.abs(scipy.fft.fft(by_lag, _N_SEGMENTS * _OFFSETS_PER_BIN))
    inside, ends = cells[margin:-margin], cells[[0, -1]].max(axis=1)
    lag, offset = np.unravel_index(int(np.argmax(inside)), inside.shape)
    # The median of a Rayleigh distribution is at the power ln 2; a power over that of noise is a
    # log-likelihood.
    middle = float(np.median(inside))
    scale = math.log(2) / middle**2 if middle > 0 else 0.0
    power = scale * float(inside[lag, offset]) ** 2
    least_power = math.log(inside.size / _FALSE_ALARM)
    if scale * float(ends.max()) ** 2 > max(power + IMPOSSIBLE_SIGMAS**2 / 2, least_power):
        return beyond if ends[1] > ends[0] else -beyond, 0.0, math.inf
    return (
        int(lag) - longest_lag,
        float(np.fft.fftfreq(inside.shape[1])[offset]) / length,
        least_power if power > least_power else math.inf,
    )


def _block_means(spectrum: Complex64, block: int) -> Float64:
    """Mean power of each block of bins, without the remainder of the last."""
    whole = spectrum[: spectrum.size // block * block].reshape(-1, block)
    power = np.square(whole.real) + np.square(whole.imag)
    return np.asarray(power.mean(axis=1), dtype=np.float64)


def _taper(n_samples: int, n_ramp: float, n_silent: float = 0.0) -> Float32:
    """1 in the middle, falling to 0 towards both ends, whose last samples are silent."""
    away = np.minimum(np.arange(n_samples), np.arange(n_samples)[::-1]) + 0.5
    rise = np.clip((away - n_silent) / max(n_ramp, 1.0), 0, 1)
    return np.asarray(np.sin(np.pi / 2 * rise) ** 2, dtype=np.float32)
