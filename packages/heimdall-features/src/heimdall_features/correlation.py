"""Differences of arrival time between receivers, as pictures a network can read.

Generalised cross-correlation: the cross-spectrum of two receivers, averaged over a column of
time, weighted, and transformed back at just the lags that their distance allows. Because the
transform is evaluated at those lags themselves, a delay of any fraction of a sample appears
where it is.

Source: C. H. Knapp and G. C. Carter, "The generalized correlation method for estimation of
time delay", IEEE Trans. ASSP 24 (1976); PHAT is its phase transform.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from heimdall_features.clock import ClockedRecording, Signal, common_signals
from heimdall_features.config import SPEED_OF_LIGHT_M_S
from heimdall_features.errors import FeatureError, require_known
from heimdall_features.frames import FramePlan

__all__ = [
    "ABSENT",
    "CorrelationConfig",
    "Pair",
    "Weighting",
    "cross_correlation_features",
    "time_differences_s",
]


Pair = tuple[str, str]
Weighting = Literal["phat", "plain"]
Float32 = NDArray[np.float32]
Complex64 = NDArray[np.complex64]

ABSENT: Final = -1.0
"""Value of a pair of which a receiver is absent; a correlation is never below 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationConfig:
    """Pairs of receivers, lags and weighting."""

    receivers: tuple[str, ...]
    baseline_m: float
    """The largest distance between two receivers: light takes no longer from one to another."""
    sample_rate_hz: float = 48_000.0
    n_lags: int = 128
    n_frames: int = 32
    weighting: Weighting = "phat"
    """`phat` counts every frequency alike and is sharpest; `plain` counts by power."""
    bandwidth_hz: float | None = None
    """What is correlated, about the carrier; None is all that the lags can show."""
    offset_limit_hz: float = 1_000.0
    """No two receivers' carriers are further apart."""

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            FeatureError: says which setting is wrong and what to do.
        """
        if len(self.receivers) < 2 or len(set(self.receivers)) < len(self.receivers):
            raise FeatureError(f"receivers are {self.receivers}; a pair takes two different ones")
        if self.weighting not in get_args(Weighting):
            raise FeatureError(f"weighting is {self.weighting!r}; choose phat or plain")
        for name in ("baseline_m", "sample_rate_hz", "offset_limit_hz"):
            if not 0 < getattr(self, name) < math.inf:
                raise FeatureError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.n_lags < 3 or self.n_frames < 1:
            raise FeatureError(
                f"n_lags={self.n_lags} and n_frames={self.n_frames} make no picture; "
                "use at least 3 lags and 1 frame"
            )
        if self.bandwidth_hz is not None and not 0 < self.bandwidth_hz <= self._widest_hz:
            raise FeatureError(
                f"bandwidth_hz is {self.bandwidth_hz}; {self.n_lags} lags over {self.baseline_m} m "
                f"at {self.sample_rate_hz} Hz show at most {self._widest_hz:.0f} Hz; raise n_lags"
            )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs in the order of the features."""
        return tuple(itertools.combinations(self.receivers, 2))

    @property
    def lags_s(self) -> NDArray[np.float64]:
        """The lags in the order of the features: float64 `(n_lags,)`, seconds.

        A positive lag means that the pair's first receiver hears the signal later.
        """
        span_s = self.baseline_m / SPEED_OF_LIGHT_M_S
        return np.linspace(-span_s, span_s, self.n_lags)

    @property
    def correlated_hz(self) -> float:
        """The bandwidth that is correlated."""
        return self._widest_hz if self.bandwidth_hz is None else self.bandwidth_hz

    @property
    def _widest_hz(self) -> float:
        step_s = 2 * self.baseline_m / SPEED_OF_LIGHT_M_S / (self.n_lags - 1)
        return min(self.sample_rate_hz, 1 / (1.5 * step_s))

    @property
    def n_fft(self) -> int:
        """Samples a frame: so long that even the largest lag leaves most of it in common."""
        span = 2 * self.baseline_m / SPEED_OF_LIGHT_M_S * self.sample_rate_hz
        return max(512, 1 << max(0, math.ceil(math.log2(8 * span))))

    @property
    def least_samples(self) -> int:
        """Samples that receivers must share: a frame."""
        return self.n_fft


def cross_correlation_features(
    recordings: Mapping[str, ClockedRecording | None], config: CorrelationConfig
) -> Float32:
    """Return the similarity of each pair of receivers at each lag, over time.

    Carrier offsets are estimated from the power spectra (`heimdall_features.clock`) and
    taken out; differences of start and of rate are taken out to a fraction of a sample.

    Args:
        recordings: by receiver; one missing, None or without a locked clock is absent.
        config: pairs, lags and weighting.

    Returns:
        float32 `(pairs, n_lags, n_frames)`: from 0, unlike, to 1, the same; -1 where absent.

    Raises:
        FeatureError: when a receiver is unknown or a recording is unfit.
    """
    require_known(recordings, config.receivers)
    clocked = {
        name: recording
        for name in config.receivers
        if (recording := recordings.get(name)) is not None and recording.clock_locked
    }
    shape = (len(config.pairs), config.n_lags, config.n_frames)
    features = np.full(shape, ABSENT, np.float32)
    if len(clocked) < 2:
        return features
    signals = common_signals(
        {name: Signal(name, clocked[name], config) for name in clocked}, config
    )
    steering = _steering(config)
    for column, spectra in enumerate(_column_spectra(signals, config)):
        for pair, (one, other) in enumerate(config.pairs):
            if one in spectra and other in spectra:
                weights = _cross_spectrum(spectra[one], spectra[other], config)
                features[pair, :, column] = np.minimum(np.abs(weights @ steering), 1.0)
    return features


def time_differences_s(features: Float32, config: CorrelationConfig) -> dict[Pair, float]:
    """Return the peak of each present pair's profile, averaged over time.

    Args:
        features: `(pairs, n_lags, n_frames)`, from `cross_correlation_features`.
        config: that they were made with.

    Returns:
        For each present pair the seconds by which its first receiver hears the signal later.

    Raises:
        FeatureError: when the features are not of this configuration.
    """
    if features.shape != (len(config.pairs), config.n_lags, config.n_frames):
        raise FeatureError(f"features of shape {features.shape} are not of {config}")
    lags_s, found = config.lags_s, {}
    for pair, profile in zip(config.pairs, features.mean(axis=2, dtype=np.float64), strict=True):
        if profile[0] > ABSENT / 2:
            at = int(np.clip(profile.argmax(), 1, config.n_lags - 2))
            before, peak, after = np.square(profile[at - 1 : at + 2])
            bend = 2 * peak - before - after
            fraction = (after - before) / (2 * bend) if bend > 0 else 0.0
            found[pair] = float(lags_s[at] + fraction * (lags_s[1] - lags_s[0]))
    return found


def _column_spectra(
    signals: list[Signal], config: CorrelationConfig
) -> Iterator[dict[str, Complex64]]:
    """For each column the spectra of its frames at each receiver: `(frames, bins)`."""
    plan = FramePlan(signals[0].samples.size, config.n_fft, config.n_fft // 2, config.n_frames)
    for column in range(config.n_frames):
        span = plan.column_start(column), plan.column_start(column + 1)
        starts = np.concatenate(
            [first + plan.hop_length * np.arange(n) for first, n in plan.runs(*span)]
        )
        yield {signal.name: _frame_spectra(signal, starts, config) for signal in signals}


def _frame_spectra(
    signal: Signal, starts: NDArray[np.int64], config: CorrelationConfig
) -> Complex64:
    """The band's bins of each frame, as if sampled at the configuration's very instants."""
    # Imported here: it takes 0.4 s.
    import scipy.fft

    bins, frequencies_hz = _band(config)
    window = np.hanning(config.n_fft + 1)[:-1].astype(np.float32)
    frames = signal.samples[starts[:, None] + np.arange(config.n_fft)] * window
    spectra = scipy.fft.fft(frames, overwrite_x=True)[:, bins]
    # A sample taken late shows the signal early: turned back, frequency by frequency.
    lateness_s = signal.lateness_s(starts + config.n_fft / 2)
    turn = np.exp(-2j * np.pi * np.outer(lateness_s, frequencies_hz))
    corrected: Complex64 = (spectra * turn).astype(np.complex64)
    return corrected


def _cross_spectrum(one: Complex64, other: Complex64, config: CorrelationConfig) -> Complex64:
    """The weighted cross-spectrum `(bins,)`; its magnitudes add up to 1 at most."""
    cross = np.einsum("fb,fb->b", one, other.conj())
    # Magnitudes add up to 1 at most: over the bins, or by Cauchy and Schwarz over the power.
    if config.weighting == "phat":
        scale = np.abs(cross) * cross.size
    else:
        scale = np.full(cross.size, np.linalg.norm(one) * np.linalg.norm(other), np.float32)
    weighted: Complex64 = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
    return weighted


def _band(config: CorrelationConfig) -> tuple[NDArray[np.intp], NDArray[np.floating[Any]]]:
    """The bins that are correlated, and their frequencies in Hz."""
    frequencies_hz = np.fft.fftfreq(config.n_fft, 1 / config.sample_rate_hz)
    bins = np.flatnonzero(np.abs(frequencies_hz) <= config.correlated_hz / 2)
    return bins, frequencies_hz[bins]


@functools.lru_cache(maxsize=8)
def _steering(config: CorrelationConfig) -> Complex64:
    """The transform back to the lags: `(bins, n_lags)`."""
    turns: Complex64 = np.exp(2j * np.pi * np.outer(_band(config)[1], config.lags_s)).astype(
        np.complex64
    )
    return turns
