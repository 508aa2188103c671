"""Posterior of a transmitter that flies: where it reports to be, rather than where it was heard.

An aircraft reports a position that is older than the signal. Its heading is unknown, so the
posterior is spread by as much as it flies meanwhile.

Source: RTCA DO-260B (2009), which allows up to 0.6 s of latency that is not compensated.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from heimdall_locate.position import Candidate, Cells
from heimdall_locate.sites import moved_deg, offset_m

Float64 = NDArray[np.float64]

SPEED_M_S: Final = 230.0
"""Of an airliner, climbing or cruising."""
LATENCIES_S: Final = (0.048, 0.15, 0.272, 0.469)
"""Equally likely: a half-normal distribution, 95 % of which is below the limit of 0.6 s."""
_SIGMAS_M: Final = SPEED_M_S * np.array(LATENCIES_S) / np.sqrt(2)
"""Deviation of each axis after each latency, for an unknown heading."""
_N_POINTS: Final = 2048
_LEAST: Final = 1e-5
"""Probability of the least cell that counts."""


class Flight:
    """Density of cells' probabilities, each spread by the latencies."""

    def __init__(self, cells: Cells) -> None:
        kept = cells.probability > _LEAST
        self._probability = cells.probability[kept] / cells.probability[kept].sum()
        peak = np.argmax(cells.log_density)
        self._middle_deg = float(cells.latitude_deg[peak]), float(cells.longitude_deg[peak])
        self._place_m = offset_m(
            *self._middle_deg, (cells.latitude_deg[kept], cells.longitude_deg[kept])
        )
        # A cell is as wide as a Gaussian of a twelfth of its area.
        self._variance = _SIGMAS_M[:, None] ** 2 + cells.width_m[kept] ** 2 / 12

    def __call__(self, latitude_deg: Float64, longitude_deg: Float64) -> Float64:
        """Nats per square metre, `(points,)`."""
        points_m = offset_m(*self._middle_deg, (latitude_deg, longitude_deg))
        share = self._probability / (2 * np.pi * len(_SIGMAS_M) * self._variance)
        density = np.empty(len(points_m))
        for number, point_m in enumerate(points_m):
            square = ((point_m - self._place_m) ** 2).sum(axis=1)
            density[number] = (share * np.exp(-square / (2 * self._variance))).sum()
        return np.log(np.maximum(density, 1e-300))

    def cells(self) -> Cells:
        """Points of equal probability."""
        rng = np.random.default_rng(0)
        levels = (np.arange(_N_POINTS) + 0.5) / _N_POINTS
        chosen = np.searchsorted(np.cumsum(self._probability), levels * (1 - 1e-12))
        latency = rng.integers(len(_SIGMAS_M), size=_N_POINTS)
        away = (
            rng.standard_normal((_N_POINTS, 2)) * np.sqrt(self._variance[latency, chosen])[:, None]
        )
        places_deg = moved_deg(*self._middle_deg, *(self._place_m[chosen] + away).T)
        log_density = self(*places_deg)
        probability = np.full(_N_POINTS, 1 / _N_POINTS)
        return Cells(
            *places_deg, probability, log_density, np.sqrt(probability / np.exp(log_density))
        )

    def candidates(self, places: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """The same candidates with covariances that are wider by the flight."""
        return tuple(one.wider(float((_SIGMAS_M**2).mean())) for one in places)
