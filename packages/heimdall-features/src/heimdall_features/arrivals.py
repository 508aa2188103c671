"""Time at which each receiver heard the transmission, with its uncertainty.

Times are on the receivers' common clock, relative to an unknown zero common to all, because the
time of emission is unknown. One row per receiver carries what time differences carry per pair.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.clock import ClockedRecording, ComparisonConfig, common_signals
from heimdall_features.config import StoredSettings

ARRIVAL_VERSION: Final = 2
"""Increased whenever arrival times change by more than rounding."""
ARRIVAL_COLUMNS: Final = ("heard", "arrival_us", "sigma_us", "snr_db", "misfit_db")
"""Columns of a receiver's row, which is zero if its arrival is unknown."""

Float32 = NDArray[np.float32]


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
        # Imported here: it loads SciPy.
        from heimdall_features.common_waveform import CommonWaveform

        rows, parts_s = np.zeros(self.shape, np.float32), np.zeros((2, len(self.config.receivers)))
        config = self.config
        signals = common_signals(recordings, config, config.least_samples)
        if not signals:
            return MeasuredArrivals(rows, *parts_s)
        waveform = CommonWaveform(
            np.array([signal.samples for signal in signals]),
            config.sample_rate_hz,
            config.compared_hz,
            config.longest_lag_s,
        )
        waveform.align()
        heard = waveform.heard
        misfit, coherent = waveform.errors()
        # All of a bad fit counts as noise, which averages out, and what does not is added.
        noise = np.maximum(misfit, 1.0) / np.maximum(waveform.information(), 1e-30)
        variance = noise + coherent
        late_s = waveform.delay_s + [signal.start_s for signal in signals]
        late_s -= np.average(late_s, weights=heard / variance) if heard.any() else 0.0
        columns = [
            np.ones(len(signals)),
            1e6 * late_s,
            1e6 * np.sqrt(variance),
            10 * np.log10(np.maximum(waveform.snr().mean(axis=1), 1e-9)),
            10 * np.log10(misfit),
        ]
        channels = [config.receivers.index(signal.name) for signal in signals]
        rows[channels] = np.where(heard[:, None], np.stack(columns, axis=1), 0.0)
        parts_s[:, channels] = np.where(heard, np.sqrt([noise, coherent]), 0.0)
        return MeasuredArrivals(rows, *parts_s)

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
