"""When each receiver heard the transmission, and how well that is known.

Times are on the receivers' common clock, against a zero common to all that nobody knows: the
time of emission. They and their standard deviations hold all that time differences between
pairs hold, in a row for each receiver instead of one for each pair.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.clock import ClockedRecording, Signal, common_signals
from heimdall_features.common_waveform import CommonWaveform
from heimdall_features.config import SPEED_OF_LIGHT_M_S
from heimdall_features.errors import FeatureError, require_known

__all__ = ["ARRIVAL_COLUMNS", "ARRIVAL_VERSION", "ArrivalConfig", "ArrivalExtractor"]


ARRIVAL_VERSION: Final = 1
"""Rises whenever arrival times change by more than rounding."""
ARRIVAL_COLUMNS: Final = ("heard", "arrival_us", "sigma_us", "snr_db", "misfit_db")
"""Columns of a receiver's row; all zero where its arrival is not known."""
CONFIG_KEY: Final = "heimdall.arrivals.config"
FINGERPRINT_KEY: Final = "heimdall.arrivals.fingerprint"
_LONGEST_BASELINE_M: Final = 20_100_000.0
"""Half the Earth's circumference."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalConfig:
    """Receivers, and the search for their arrivals."""

    receivers: tuple[str, ...]
    """The rows of the result, in order."""
    baseline_m: float
    """The largest distance between two receivers: light takes no longer from one to another."""
    sample_rate_hz: float = 48_000.0
    bandwidth_hz: float | None = None
    """What is compared, about the carrier; None is the whole rate."""
    offset_limit_hz: float = 1_000.0
    """No two receivers' carriers are further apart."""

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            FeatureError: says which setting is wrong and what to do.
        """
        object.__setattr__(self, "receivers", tuple(self.receivers))
        if len(self.receivers) < 2 or len(set(self.receivers)) < len(self.receivers):
            raise FeatureError(
                f"receivers are {self.receivers}; a difference of times takes two different ones"
            )
        for name in ("baseline_m", "sample_rate_hz", "offset_limit_hz"):
            if not 0 < getattr(self, name) < math.inf:
                raise FeatureError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.baseline_m > _LONGEST_BASELINE_M:
            raise FeatureError(f"baseline_m is {self.baseline_m}; the Earth has none that long")
        if self.bandwidth_hz is not None and not 0 < self.bandwidth_hz <= self.sample_rate_hz:
            raise FeatureError(
                f"bandwidth_hz is {self.bandwidth_hz}; use one up to the sample rate, "
                f"{self.sample_rate_hz}"
            )

    @property
    def longest_lag_s(self) -> float:
        """Largest possible difference of arrival."""
        return self.baseline_m / SPEED_OF_LIGHT_M_S

    @property
    def compared_hz(self) -> float:
        """The bandwidth that is compared."""
        return self.sample_rate_hz if self.bandwidth_hz is None else self.bandwidth_hz

    @property
    def least_samples(self) -> int:
        """Samples that receivers must share: half a segment is longer than the largest lag."""
        return max(2048, math.ceil(128 * self.longest_lag_s * self.sample_rate_hz))

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, the same on every machine for the same settings."""
        text = f"heimdall-arrivals:{ARRIVAL_VERSION}:{self.to_json()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """These settings in canonical JSON: one text for one meaning."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The settings that `to_json` wrote.

        Raises:
            FeatureError: when the text is no such JSON.
        """
        try:
            values = json.loads(text)
            return cls(**{**values, "receivers": tuple(values["receivers"])})
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise FeatureError(
                f"{text!r:.200} is no configuration of arrival times ({error}); "
                "install the version of heimdall-features that wrote it"
            ) from error


class ArrivalExtractor:
    """Turns `{receiver: ClockedRecording}` into times of arrival."""

    def __init__(self, config: ArrivalConfig) -> None:
        """Measure as `config` says."""
        self.config = config

    def __repr__(self) -> str:
        return f"ArrivalExtractor({self.config!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the result: receivers and columns."""
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
        require_known(recordings, self.config.receivers)
        rows = np.zeros(self.shape, np.float32)
        clocked = {
            row: Signal(name, recording, self.config)
            for row, name in enumerate(self.config.receivers)
            if (recording := recordings.get(name)) is not None and recording.clock_locked
        }
        if len(clocked) >= 2:
            signals = common_signals(
                {signal.name: signal for signal in clocked.values()}, self.config
            )
            rows[list(clocked)] = _rows(signals, self.config)
        return rows

    def metadata(self) -> dict[str, str]:
        """Return the model file's entries about the arrival times that it takes."""
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
