"""What arrival times are measured of, and their fingerprint."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Final, Self

from heimdall_features.errors import FeatureError
from heimdall_features.lags import SPEED_OF_LIGHT_M_S

__all__ = ["ARRIVAL_VERSION", "ArrivalConfig"]

ARRIVAL_VERSION: Final = 1
"""Rises whenever arrival times change by more than rounding."""
_LONGEST_BASELINE_M: Final = 20_100_000.0
"""Half the Earth's circumference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalConfig:
    """Which receivers, and where their arrivals are looked for."""

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
        """No difference of arrival is larger."""
        return self.baseline_m / SPEED_OF_LIGHT_M_S

    @property
    def compared_hz(self) -> float:
        """The bandwidth that is compared."""
        return self.sample_rate_hz if self.bandwidth_hz is None else self.bandwidth_hz

    @property
    def least_samples(self) -> int:
        """What receivers must have in common: half of a segment is longer than the largest lag."""
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
