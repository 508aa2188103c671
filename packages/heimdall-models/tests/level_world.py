"""A small world in which levels follow the law that level baselines assume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_models.levels.received_power import TrainingLevels
from heimdall_models.region import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

REGION = Region(44.95, 8.2, 90_000.0)
RECEIVERS = np.array([[-0.5, 0.1], [0.6, -0.7], [0.8, 0.6], [-0.7, -0.6], [0.0, 0.5]])
"""Plane units."""
EXPONENT = 3.2
SILL = 36.0
"""Of shadowing, dB^2."""
RANGE = 0.25
"""Of shadowing, plane units."""
FADING = 9.0
"""dB^2."""
POWER_SIGMA_DB = 4.0
NOISE_DB = -90.0
"""Of every receiver in `features_of`, all bands together."""
_N_BANDS = 128
_N_FRAMES = 32
_FILL_DB = -140.0


@dataclass(frozen=True, slots=True)
class LevelWorld:
    """Sessions of one world: where, and what each receiver reads."""

    places: NDArray[np.float64]
    """`(n, 2)`, plane units."""
    levels_db: NDArray[np.float64]
    """`(n, receivers)`; NaN where a receiver was down."""
    present: NDArray[np.bool_]

    @classmethod
    def drawn(
        cls, n_sessions: int, seed: int, fading: float = FADING, absent: float = 0.0
    ) -> LevelWorld:
        """Path loss, exponential shadowing, fading (dB^2) and powers, each drawn from its law.

        A receiver is down with probability `absent`; each session keeps one at least.
        """
        rng = np.random.default_rng(seed)
        places = rng.uniform(-0.9, 0.9, (n_sessions, 2))
        apart = np.linalg.norm(places[:, None] - places, axis=-1)
        factor = np.linalg.cholesky(SILL * np.exp(-apart / RANGE) + 1e-6 * np.eye(n_sessions))
        shape = (n_sessions, len(RECEIVERS))
        levels = path_loss_levels_db(places) + factor @ rng.standard_normal(shape)
        levels += np.sqrt(fading) * rng.standard_normal(shape)
        levels += POWER_SIGMA_DB * rng.standard_normal((n_sessions, 1))
        present = rng.random(shape) >= absent
        present[np.arange(n_sessions), rng.integers(len(RECEIVERS), size=n_sessions)] = True
        return cls(places, np.where(present, levels, np.nan), present)

    def training(self, rows: slice) -> TrainingLevels:
        """Those sessions, to fit on."""
        return TrainingLevels(
            self.levels_db[rows],
            self.present[rows],
            REGION.to_degrees(self.places[rows]),
            REGION.to_degrees(RECEIVERS),
            REGION,
        )


def path_loss_levels_db(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean levels of transmitters at places `(n, 2)` in plane units, `(n, receivers)`."""
    distance_m = np.linalg.norm(places[:, None] - RECEIVERS, axis=-1) * REGION.scale_m
    levels: NDArray[np.float64] = 60 - 10 * EXPONENT * np.log10(np.maximum(distance_m, 200.0))
    return levels


def features_of(levels_db: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Features `(n, receivers, 128, 32)` in dB whose signals have exactly these levels.

    White noise of `NOISE_DB`, a signal in 20 bands in the middle that varies over time, and
    the fill of -140 dB where a receiver was down.
    """
    levels = np.where(present, levels_db, 0.0)
    power = np.full((*levels.shape, _N_BANDS, _N_FRAMES), 10 ** (NOISE_DB / 10) / _N_BANDS)
    pattern = np.random.default_rng(1).uniform(0.5, 1.5, (20, _N_FRAMES))
    pattern /= pattern.mean() * 20
    power[:, :, 54:74] += 10 ** (levels[:, :, None, None] / 10) * pattern
    features = 10 * np.log10(power)
    features[~present] = _FILL_DB
    return features.astype(np.float32)
