"""Differences of arrival time between receivers, as images for a network.

Generalised cross-correlation: the cross-spectrum of two receivers is averaged over a column of
time, weighted, and transformed back at only the lags that the baseline allows. The transform is
evaluated at these lags themselves, so the peak of a fractional delay is at its true place.

Source: C. H. Knapp and G. C. Carter, "The generalized correlation method for estimation of
time delay", IEEE Trans. ASSP 24 (1976); PHAT is its phase transform.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from heimdall_features.clock import (
    ClockedRecording,
    ComparisonConfig,
    Signal,
    common_signals,
    vertex,
)
from heimdall_features.errors import FeatureError
from heimdall_features.frames import FramePlan

Pair = tuple[str, str]
Weighting = Literal["phat", "plain"]
Float32 = NDArray[np.float32]
Complex64 = NDArray[np.complex64]

ABSENT: Final = -1.0
"""Value of the pairs of an absent receiver; a correlation is never below 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationConfig(ComparisonConfig):
    """Pairs of receivers, lags and weighting. An invalid setting raises a `FeatureError`."""

    n_lags: int = 128
    """More lags allow a larger bandwidth."""
    n_frames: int = 32
    """Columns of time; they cover the recording, whatever its length."""
    weighting: Weighting = "phat"
    """`phat` weights all frequencies equally and is sharpest; `plain` weights by power."""

    def __post_init__(self) -> None:
        if self.weighting not in get_args(Weighting):
            raise FeatureError(f"weighting is {self.weighting!r}; choose phat or plain")
        if self.n_lags < 3 or self.n_frames < 1:
            raise FeatureError(
                f"n_lags is {self.n_lags} and n_frames {self.n_frames}; "
                "use at least 3 lags and 1 frame"
            )
        ComparisonConfig.__post_init__(self)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Pairs in the order of the features."""
        return tuple(itertools.combinations(self.receivers, 2))

    @property
    def lags_s(self) -> NDArray[np.float64]:
        """Lags in seconds, in the order of the features: float64 `(n_lags,)`.

        At a positive lag, the pair's first receiver hears the signal later.
        """
        return np.linspace(-self.longest_lag_s, self.longest_lag_s, self.n_lags)

    @property
    def widest_hz(self) -> float:
        """Largest bandwidth that the lags can show."""
        step_s = 2 * self.longest_lag_s / (self.n_lags - 1)
        return min(self.sample_rate_hz, 1 / (1.5 * step_s))

    @property
    def n_fft(self) -> int:
        """Samples per frame, of which even the longest lag leaves most in common."""
        span = 2 * self.longest_lag_s * self.sample_rate_hz
        return max(512, 1 << max(0, math.ceil(math.log2(8 * span))))


def cross_correlation_features(
    recordings: Mapping[str, ClockedRecording | None], config: CorrelationConfig
) -> Float32:
    """Return the similarity of each pair of receivers at each lag, over time.

    Carrier offsets are estimated and removed (`heimdall_features.clock`); so are differences of
    start and rate, to a fraction of a sample.

    Args:
        recordings: By receiver; one that is missing, None or without a locked clock is absent.
        config: Pairs, lags and weighting.

    Returns:
        float32 `(pairs, n_lags, n_frames)` from 0 (unlike) to 1 (identical), -1 where absent.

    Raises:
        FeatureError: A receiver is unknown, or a recording is unfit.
    """
    shape = (len(config.pairs), config.n_lags, config.n_frames)
    features = np.full(shape, ABSENT, np.float32)
    signals = common_signals(recordings, config, config.n_fft)
    if not signals:
        return features
    steering = _steering(config)
    plan = FramePlan(signals[0].samples.size, config.n_fft, config.n_fft // 2, config.n_frames)
    for column in range(config.n_frames):
        runs = plan.runs(plan.column_start(column), plan.column_start(column + 1))
        starts = np.concatenate([first + plan.hop_length * np.arange(n) for first, n in runs])
        spectra = {signal.name: _frame_spectra(signal, starts, config) for signal in signals}
        for pair, (one, other) in enumerate(config.pairs):
            if one in spectra and other in spectra:
                weights = _cross_spectrum(spectra[one], spectra[other], config)
                features[pair, :, column] = np.minimum(np.abs(weights @ steering), 1.0)
    return features


def time_differences_s(features: Float32, config: CorrelationConfig) -> dict[Pair, float]:
    """Return the peak of each present pair's profile, averaged over time.

    It is the time in seconds by which the pair's first receiver hears the signal later. A pair
    whose profile is highest at a longest lag, where a peak beyond it cannot be told apart, is
    left out. The features are those of `cross_correlation_features` with the same configuration.

    Raises:
        FeatureError: The features have another shape.
    """
    if features.shape != (len(config.pairs), config.n_lags, config.n_frames):
        raise FeatureError(f"features of shape {features.shape} do not fit {config}")
    lags_s, found = config.lags_s, {}
    for pair, profile in zip(config.pairs, features.mean(axis=2, dtype=np.float64), strict=True):
        if profile[0] > ABSENT / 2:
            at = int(profile.argmax())
            if 0 < at < config.n_lags - 1:
                fraction = vertex(*np.square(profile[at - 1 : at + 2]))
                found[pair] = float(lags_s[at] + fraction * (lags_s[1] - lags_s[0]))
    return found


def _frame_spectra(
    signal: Signal, starts: NDArray[np.int64], config: CorrelationConfig
) -> Complex64:
    """Band of each frame, as if sampled from the common start on: `(frames, bins)`."""
    # Imported here: it takes 0.4 s.
    import scipy.fft

    bins, frequencies_hz = _band(config)
    window = np.hanning(config.n_fft + 1)[:-1].astype(np.float32)
    frames = signal.samples[starts[:, None] + np.arange(config.n_fft)] * window
    spectra = scipy.fft.fft(frames, overwrite_x=True)[:, bins]
    # A sample taken late shows the signal early: turned back at each frequency.
    turn = np.exp(-2j * np.pi * signal.start_s * frequencies_hz)
    corrected: Complex64 = (spectra * turn).astype(np.complex64)
    return corrected


def _cross_spectrum(one: Complex64, other: Complex64, config: CorrelationConfig) -> Complex64:
    """Weighted cross-spectrum `(bins,)`, whose magnitudes add up to at most 1.

    They are divided by the number of bins, or by the power (Cauchy-Schwarz).
    """
    cross = np.einsum("fb,fb->b", one, other.conj())
    if config.weighting == "phat":
        scale = np.abs(cross) * cross.size
    else:
        scale = np.full(cross.size, np.linalg.norm(one) * np.linalg.norm(other), np.float32)
    weighted: Complex64 = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
    return weighted


def _band(config: CorrelationConfig) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """Bins that are correlated, and their frequencies in Hz."""
    frequencies_hz = np.fft.fftfreq(config.n_fft, 1 / config.sample_rate_hz)
    bins = np.flatnonzero(np.abs(frequencies_hz) <= config.compared_hz / 2)
    return bins, frequencies_hz[bins]


@functools.lru_cache(maxsize=8)
def _steering(config: CorrelationConfig) -> Complex64:
    """Transform back to the lags: `(bins, n_lags)`."""
    turns = np.exp(2j * np.pi * np.outer(_band(config)[1], config.lags_s))
    return np.asarray(turns, dtype=np.complex64)
