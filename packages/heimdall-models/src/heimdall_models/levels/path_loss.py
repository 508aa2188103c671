"""The log-distance law of path loss, and receivers' places found by it.

    level = power + gain of the receiver - 10 exponent log10(distance) + deviation

A session's power is unknown, so the law is fitted to differences within sessions: ordinary least
squares with a fixed effect for each session. Deviations are shadowing and fading together.

Source: T. S. Rappaport, "Wireless Communications" (2nd ed., 2002), section 4.9; fixed effects:
J. M. Wooldridge, "Econometric Analysis of Cross Section and Panel Data" (2010), section 10.5.

A network is trained on features and positions alone, without the receivers' places. They are
found as those with which the law fits best: by nonlinear least squares, with exponent, gains and
powers eliminated by linear least squares at each step (variable projection), from the mean place
of the transmitters that each receiver hears loudest.

Source: G. Golub and V. Pereyra, "Separable nonlinear least squares: the variable projection
method and its applications", Inverse Problems 19 (2003).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heimdall_models.levels.received_power import TrainingLevels

LEAST_DISTANCE_M = 200.0
LEAST_DISTANCE = 0.02
"""Plane units. Distances count at least as this, or as 200 m in larger regions: nearer, the law
does not hold."""
_LEAST_VARIANCE = 1e-2
"""dB^2: neither measurements nor the law are better than this."""
N_SESSIONS = 1_000
"""Enough to find receivers to a few hundred metres."""
_LOUDEST = 0.02
"""Share of a receiver's sessions that the search starts from."""
_FARTHEST = 1.5
"""Plane units from the region's middle, east or north."""


@dataclass(frozen=True, slots=True)
class PathLossLaw:
    """A fitted law; levels in dB, places in plane units."""

    exponent: float
    gains_db: NDArray[np.float64]
    """`(receivers,)`: expected level at 1 m, at the mean transmit power."""
    variance: float
    """dB^2, of a receiver's own deviations."""
    power_variance: float
    """dB^2, of transmit power."""
    receivers: NDArray[np.float64]
    """`(receivers, 2)`, plane units."""
    scale_m: float

    @classmethod
    def of(
        cls, training: TrainingLevels, receivers: NDArray[np.float64] | None = None
    ) -> PathLossLaw:
        """The law that fits the sessions best, if their receivers are at these plane units."""
        if receivers is None:
            receivers = training.region.to_plane(training.receivers_deg)
        levels, up, scale_m = training.levels_db, training.present, training.region.scale_m
        decades = _decades(training.places, receivers, scale_m)
        indicators = [up * row for row in np.eye(up.shape[1])]
        columns = [np.where(up, -10 * decades, 0.0), *indicators]
        design = np.stack([_within(column, up)[up] for column in columns], axis=1)
        answer = np.linalg.lstsq(design, _within(levels, up)[up], rcond=None)[0]
        exponent, gains = float(answer[0]), np.asarray(answer[1:], dtype=np.float64)
        residual = np.where(up, levels - gains + 10 * exponent * decades, 0.0)
        n_free = max(int(up.sum()) - int(up.any(axis=1).sum()) - len(gains), 1)
        variance = max(float(np.square(_within(residual, up)).sum() / n_free), _LEAST_VARIANCE)
        heard = up.any(axis=1)
        counts = up.sum(axis=1)[heard]
        powers = residual[heard].sum(axis=1) / counts
        # The deviations' share of the variance of the sessions' mean residuals is taken out.
        spread = float(powers.var()) - variance * float((1 / counts).mean())
        power_variance = max(spread, _LEAST_VARIANCE)
        gains += float(powers.mean())
        return cls(exponent, gains, variance, power_variance, receivers, scale_m)

    def mean_db(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected levels at places `(n, 2)` in plane units: `(n, receivers)`."""
        decades = _decades(places, self.receivers, self.scale_m)
        return np.asarray(self.gains_db - 10 * self.exponent * decades)


def found_receivers(training: TrainingLevels) -> NDArray[np.float64]:
    """Places of the receivers in plane units, `(receivers, 2)`; `receivers_deg` is ignored."""
    # Mean place of the sessions in which each receiver is loudest compared with the others.
    up, levels, places = training.present, training.levels_db, training.places
    others = levels.sum(axis=1) / np.maximum(up.sum(axis=1), 1)
    share = np.where(up, levels - others[:, None], -np.inf)
    count = max(round(_LOUDEST * len(places)), 1)
    start = np.stack([places[np.argsort(column)[-count:]].mean(axis=0) for column in share.T])
    some = training.some(N_SESSIONS)

    def deviations(receivers: NDArray[np.float64]) -> NDArray[np.float64]:
        law = PathLossLaw.of(some, receivers.reshape(-1, 2))
        return _within(some.levels_db - law.mean_db(some.places), some.present).reshape(-1)

    found = least_squares(
        deviations,
        np.clip(start, -0.99 * _FARTHEST, 0.99 * _FARTHEST).reshape(-1),
        bounds=(-_FARTHEST, _FARTHEST),
        diff_step=1e-3,
        max_nfev=20,
    )
    return np.asarray(found.x.reshape(-1, 2))


def _decades(
    places: NDArray[np.float64], receivers: NDArray[np.float64], scale_m: float
) -> NDArray[np.float64]:
    """Logarithms of the distances in metres, `(n, receivers)`."""
    distance_m = np.linalg.norm(places[:, None] - receivers, axis=-1) * scale_m
    return np.asarray(
        np.log10(np.maximum(distance_m, min(LEAST_DISTANCE_M, LEAST_DISTANCE * scale_m)))
    )


def _within(values: NDArray[np.float64], up: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values less their session's mean over the receivers that are up; zero elsewhere."""
    counts = np.maximum(up.sum(axis=1, keepdims=True), 1)
    means = (values * up).sum(axis=1, keepdims=True) / counts
    return np.asarray((values - means) * up)
