"""Which pairs of receivers are correlated, and over which lags."""

import itertools
import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from heimdall_features.errors import FeatureError

__all__ = ["CorrelationConfig", "Pair", "Weighting"]

SPEED_OF_LIGHT_M_S: Final = 299_792_458.0

Pair = tuple[str, str]
Weighting = Literal["phat", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationConfig:
    """Which pairs, over which lags, at which weight."""

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
        """What receivers must have in common: a frame."""
        return self.n_fft
