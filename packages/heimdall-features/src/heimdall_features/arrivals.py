"""Time at which each receiver heard the transmission, with its uncertainty.

Times are on the receivers' common clock, relative to an unknown zero common to all, because the
time of emission is unknown. One row per receiver carries what time differences carry per pair.

No transmission is heard by two receivers further apart in time than light takes from one to the
other. Where recordings say so, a clock is wrong, and it is that of the receiver without which the
others agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.clock import ClockedRecording, ComparisonConfig, Signal, common_signals
from heimdall_features.config import StoredSettings

ARRIVAL_VERSION: Final = 2
"""Increased whenever arrival times change by more than rounding."""
ARRIVAL_COLUMNS: Final = ("heard", "arrival_us", "sigma_us", "snr_db", "misfit_db")
"""Columns of a receiver's row, which is zero if its arrival is unknown."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalConfig(ComparisonConfig, StoredSettings):
    """Receivers and the search for arrivals. An invalid setting raises a `FeatureError`."""

    KIND = "arrivals"
    ALGORITHM = ARRIVAL_VERSION

    @property
    def least_samples(self) -> int:
        """Samples that recordings must share: half a segment is longer than any lag."""
        return max(2048, math.ceil(128 * self.longest_lag_s * self.sample_rate_hz))


class MeasuredArrivals(NamedTuple):
    """Arrival times of one transmission; arrays have one value, or row, a receiver."""

    rows: Float32
    """As `ArrivalExtractor` returns them, `(receivers, 5)`."""
    noise_s: NDArray[np.float64]
    """Standard deviation from noise, for which all of a bad fit counts."""
    coherent_s: NDArray[np.float64]
    """Standard deviation from what does not average out (`coherent_error`)."""
    impossible: Mapping[str, str] = MappingProxyType({})
    """Reason by receiver that has no arrival because its time contradicts those of others."""


class ArrivalExtractor:
    """Computes arrival times from `{receiver: ClockedRecording}`."""

    def __init__(self, config: ArrivalConfig) -> None:
        self.config = config

    def __repr__(self) -> str:
        return f"ArrivalExtractor({self.config!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the result: receivers and columns."""
        return len(self.config.receivers), len(ARRIVAL_COLUMNS)

    def __call__(self, recordings: Mapping[str, ClockedRecording | None]) -> Float32:
        """Return the arrival times of one transmission.

        Args:
            recordings: By receiver; one that is missing, None or without a locked clock has no
                arrival.

        Returns:
            float32 `(receivers, 5)` with the columns `ARRIVAL_COLUMNS`: 1 if the arrival was
            found; microseconds after the receivers' weighted mean; their standard deviation from
            noise and from what does not fit (`coherent_error`), without clocks and detours;
            signal to noise in the compared band in dB; and the dB by which the part that the
            other receivers do not explain exceeds noise. Rows of receivers without a known
            arrival are zero.

        Raises:
            FeatureError: A receiver is unknown, a recording is unfit, or those with clocks
                share too little time.
        """
        return self.measure(recordings).rows

    def measure(self, recordings: Mapping[str, ClockedRecording | None]) -> MeasuredArrivals:
        """Return the arrival times as a call does, and the two parts of their deviations.

        Raises:
            FeatureError: As a call.
        """
        rows, parts_s = np.zeros(self.shape, np.float32), np.zeros((2, len(self.config.receivers)))
        signals = common_signals(recordings, self.config, self.config.least_samples)
        if not signals:
            return MeasuredArrivals(rows, *parts_s)
        found, wrong = _aligned(signals, self.config), list[str]()
        few = found.heard | found.impossible
        if not few.any():
            few[found.strongest] = True
        if 2 * few.sum() < len(signals):
            # If most others agree, it is these few, the strongest, that hear something else.
            others = [one for one, is_few in zip(signals, few, strict=True) if not is_few]
            rest = _aligned(others, self.config)
            if 2 * rest.heard.sum() > len(signals):
                found, signals = rest, others
        while found.impossible.any() and len(signals) > 2:
            rests = [[one for one in signals if one is not left_out] for left_out in signals]
            aligned = [_aligned(rest, self.config) for rest in rests]
            best = min(range(len(rests)), key=lambda n: aligned[n].doubt)
            wrong.append(signals[best].name)
            found, signals = aligned[best], rests[best]
        names = np.array([signal.name for signal in signals], dtype=object)
        wrong += names[found.impossible].tolist()
        heard = found.heard & ~found.impossible
        if heard.sum() <= len(wrong):  # those that agree are no majority
            wrong += names[heard].tolist()
            heard[:] = False
        variance = found.noise + found.coherent
        late_s = found.late_s
        if heard.any():
            late_s = _within(late_s, variance, heard, found.largest_s)
            late_s -= np.average(late_s, weights=heard / variance)
        columns = [
            np.ones(len(signals)),
            1e6 * late_s,
            1e6 * np.sqrt(variance),
            10 * np.log10(np.maximum(found.snr, 1e-9)),
            10 * np.log10(found.misfit),
        ]
        channels = [self.config.receivers.index(signal.name) for signal in signals]
        rows[channels] = np.where(heard[:, None], np.stack(columns, axis=1), 0.0)
        parts_s[:, channels] = np.where(heard, np.sqrt([found.noise, found.coherent]), 0.0)
        apart = (
            f"arrivals are more than {1e6 * self.config.longest_lag_s:,.0f} us apart, which "
            f"{self.config.baseline_m / 1000:,.0f} km do not allow"
        )
        reason = f"its time contradicts the others: {apart}; are clock and position right?"
        if not heard.any():
            reason = (
                f"the times contradict each other: {apart}, and no majority agrees; are clocks and "
                "positions right, or does the signal repeat itself?"
            )
        return MeasuredArrivals(rows, parts_s[0], parts_s[1], dict.fromkeys(wrong, reason))

    def metadata(self) -> dict[str, str]:
        """Return the entries of a model file that `from_metadata` reads."""
        return self.config.metadata()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """Return the extractor of a model file; None if the model takes no arrival times.

        Raises:
            FeatureError: This version cannot compute the times that the model was trained on.
        """
        if f"heimdall.{ArrivalConfig.KIND}.config" not in metadata:
            return None
        return cls(ArrivalConfig.from_metadata(metadata))


class _Aligned(NamedTuple):
    """Signals aligned with each other; arrays have one value a signal."""

    late_s: Float64
    noise: Float64
    """Variance from noise, in s^2."""
    coherent: Float64
    """Variance from what does not average out, in s^2."""
    snr: Float64
    misfit: Float64
    heard: Bool
    impossible: Bool
    """Signals that are further from another in time than its receiver is in space."""
    strongest: int
    """Number of the signal with which the alignment begins."""
    largest_s: Float64
    """Largest possible difference of each two, with what their clocks may add."""

    @property
    def doubt(self) -> tuple[int, float]:
        """Order of preference: the fewest contradictions, then the most information."""
        information = self.heard / (self.noise + self.coherent)
        return int(self.impossible.sum()), -float(information.sum())


def _aligned(signals: Sequence[Signal], config: ArrivalConfig) -> _Aligned:
    # Imported here: it loads SciPy.
    from heimdall_features.common_waveform import IMPOSSIBLE_SIGMAS, CommonWaveform

    clock_sigma_s = np.array([signal.clock_sigma_s for signal in signals])
    largest_s = config.longest_lag_s + IMPOSSIBLE_SIGMAS * np.hypot.outer(
        clock_sigma_s, clock_sigma_s
    )
    waveform = CommonWaveform(
        np.array([signal.samples for signal in signals]),
        config.sample_rate_hz,
        config.compared_hz,
        config.longest_lag_s,
        float(largest_s.max()) - config.longest_lag_s,
    )
    waveform.align()
    heard = waveform.heard
    misfit, coherent, gained = waveform.errors()
    # All of a bad fit counts as noise, which averages out, and what does not is added.
    information = np.maximum(waveform.information(), 1e-30)
    noise = np.maximum(misfit, 1.0) / information
    late_s = waveform.delay_s + [signal.start_s for signal in signals]
    # An error that no noise explains is no excuse: at a wrong lag, nothing fits.
    noise_s = np.sqrt(np.add.outer(1 / information, 1 / information))
    excess_s = np.abs(np.subtract.outer(late_s, late_s)) - largest_s
    contradicts = (excess_s > IMPOSSIBLE_SIGMAS * noise_s) & np.logical_and.outer(heard, heard)
    elsewhere = gained > IMPOSSIBLE_SIGMAS**2 / 2
    impossible = waveform.beyond | elsewhere | contradicts.any(axis=1)
    snr = waveform.snr().mean(axis=1)
    return _Aligned(
        late_s, noise, coherent, snr, misfit, heard, impossible, waveform.strongest, largest_s
    )


def _within(late_s: Float64, variance: Float64, heard: Bool, largest_s: Float64) -> Float64:
    """Times of which noise has brought no two further apart than is possible.

    The largest possible difference is then the likeliest; both ends move by their uncertainty.
    """
    first = int(np.where(heard, late_s, np.inf).argmin())
    last = int(np.where(heard, late_s, -np.inf).argmax())
    possible_s = largest_s[first, last]
    excess_s = max(late_s[last] - late_s[first] - possible_s, 0.0)
    begin_s = late_s[first] + excess_s * variance[first] / (variance[first] + variance[last])
    return late_s.clip(begin_s, begin_s + possible_s)
