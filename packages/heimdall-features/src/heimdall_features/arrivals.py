"""When each receiver heard the transmission, and how well that is known.

Times are on the receivers' common clock, against a zero common to all that nobody knows: the
time of emission. They and their standard deviations hold all that time differences between
pairs hold, a row for each receiver instead of one for each pair.
"""

from collections.abc import Mapping
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.arrival_config import ARRIVAL_VERSION, ArrivalConfig
from heimdall_features.clock import ClockedRecording, Signal, together
from heimdall_features.common_waveform import CommonWaveform
from heimdall_features.errors import FeatureError

__all__ = ["ARRIVAL_COLUMNS", "ArrivalExtractor"]

ARRIVAL_COLUMNS: Final = ("heard", "arrival_us", "sigma_us", "snr_db", "misfit_db")
"""What each receiver's row says; all zero where its arrival is not known."""

CONFIG_KEY: Final = "heimdall.arrivals.config"
FINGERPRINT_KEY: Final = "heimdall.arrivals.fingerprint"

Float32 = NDArray[np.float32]


class ArrivalExtractor:
    """Turns `{receiver: ClockedRecording}` into times of arrival."""

    def __init__(self, config: ArrivalConfig) -> None:
        """Measure as `config` says."""
        self.config = config

    def __repr__(self) -> str:
        """Which arrival times these are."""
        return f"ArrivalExtractor({self.config!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """Of the result: receivers and columns."""
        return len(self.config.receivers), len(ARRIVAL_COLUMNS)

    def __call__(self, recordings: Mapping[str, ClockedRecording | None]) -> Float32:
        """The arrival times of one transmission.

        Args:
            recordings: by receiver; one that is missing, None or without a locked clock is
                absent from the times.

        Returns:
            float32 `(receivers, 5)`, columns as in `ARRIVAL_COLUMNS`: 1 where the arrival was
            found; microseconds after the receivers' weighted mean; their standard deviation
            from noise alone, clocks and paths left out; signal to noise in the compared band
            in dB; and by how many dB what the other receivers do not explain exceeds noise.
            Rows of receivers without a known arrival are zero.

        Raises:
            FeatureError: when a receiver is unknown, a recording unfit, or those with clocks
                share too little time.
        """
        if unknown := sorted(map(str, set(recordings) - set(self.config.receivers))):
            raise FeatureError(f"unknown receivers {unknown}; known: {self.config.receivers}")
        rows = np.zeros(self.shape, np.float32)
        clocked = {
            row: Signal(name, recording, self.config)
            for row, name in enumerate(self.config.receivers)
            if (recording := recordings.get(name)) is not None and recording.clock_locked
        }
        if len(clocked) >= 2:
            signals = together({signal.name: signal for signal in clocked.values()}, self.config)
            rows[list(clocked)] = _rows(signals, self.config)
        return rows

    def metadata(self) -> dict[str, str]:
        """What a model file says of the arrival times that it takes."""
        return {
            CONFIG_KEY: self.config.to_json(),
            FINGERPRINT_KEY: self.config.fingerprint,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """The extractor of a model file; None where the model takes no arrival times.

        Raises:
            FeatureError: when this version cannot measure what the model was trained on.
        """
        if CONFIG_KEY not in metadata:
            return None
        config = ArrivalConfig.from_json(metadata[CONFIG_KEY])
        if config.fingerprint != metadata.get(FINGERPRINT_KEY):
            raise FeatureError(
                f"the model's arrival times have fingerprint "
                f"{metadata.get(FINGERPRINT_KEY)!s:.16}, but version {ARRIVAL_VERSION} gives "
                f"{config.fingerprint:.16}; install the heimdall-features that made them"
            )
        return cls(config)


def _rows(signals: list[Signal], config: ArrivalConfig) -> Float32:
    """The rows of receivers that all have a clock."""
    waveform = CommonWaveform(
        np.array([signal.steady() for signal in signals]),
        config.sample_rate_hz,
        config.compared_hz,
        config.longest_lag_s,
    )
    waveform.align()
    heard = waveform.heard
    misfit = waveform.misfit()
    # What fits badly is less sure by as much.
    variance = np.maximum(misfit, 1.0) / np.maximum(waveform.information(), 1e-30)
    late_s = waveform.delay_s + [signal.start_s for signal in signals]
    weights = heard / variance
    late_s -= np.average(late_s, weights=weights) if heard.any() else 0.0
    rows = np.stack(
        [
            np.ones(len(signals)),
            1e6 * late_s,
            1e6 * np.sqrt(variance),
            10 * np.log10(np.maximum(waveform.snr().mean(axis=1), 1e-9)),
            10 * np.log10(misfit),
        ],
        axis=1,
    )
    return np.where(heard[:, None], rows, 0.0).astype(np.float32)
