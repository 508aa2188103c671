"""Confidence intervals of figures from sessions that are not independent.

Sessions of one transmitter share its terrain and its power. So whole transmitters are resampled,
and the interval of a share is that of the number of independent sessions with the same scatter.

Sources: A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application" (1997), section
3.8 (resampling clusters); E. B. Wilson, JASA 22 (1927) (the score interval); L. Kish, "Survey
Sampling" (1965), section 8.2 (the design effect); E. L. Korn and B. I. Graubard, Survey
Methodology 24 (1998) (its use in an exact interval of a share); C. J. Clopper and E. S. Pearson,
Biometrika 26 (1934) (the exact interval).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincinv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_Z95 = 1.959964
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval, whose ends are NaN if there are too few data."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """True if there were enough data for an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def holds(self, value: float) -> bool:
        """Return True if the value lies in the interval."""
        return self.known and self.low <= value <= self.high


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], clusters: Sequence[str]) -> Interval:
    """Percentile interval of a statistic, from resampling whole clusters.

    The statistic is a function of the indices of sessions, which may repeat; clusters, (n,), are
    their transmitters.
    """
    value = statistic(np.arange(len(clusters)))
    names, member_of = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        return Interval(value)
    members = [np.flatnonzero(member_of == k) for k in range(len(names))]
    draws = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
    values = [statistic(np.concatenate([members[k] for k in draw])) for draw in draws]
    if not np.isfinite(values).any():
        return Interval(value)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def ratio_of_medians(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], clusters: Sequence[str]
) -> Interval:
    """Ratio of the medians of (n,) each; NaN if the denominator's is zero."""

    def ratio(rows: NDArray[np.int64]) -> float:
        below = float(np.median(denominator[rows]))
        return float(np.median(numerator[rows])) / below if below > 0 else math.nan

    return bootstrap(ratio, clusters)


def rank_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], clusters: Sequence[str]
) -> Interval:
    """Spearman's rank correlation, -1 to 1; NaN if one of the two is constant."""
    columns = [np.unique(values, return_inverse=True)[1] for values in (x, y)]

    def centred_ranks(levels: NDArray[np.int64]) -> NDArray[np.float64]:
        counts = np.bincount(levels)
        last = np.cumsum(counts)
        ranks = ((last - counts + last - 1) / 2)[levels]  # equal numbers share their mean rank
        return np.asarray(ranks - ranks.mean(), dtype=np.float64)

    def spearman(rows: NDArray[np.int64]) -> float:
        first, second = (centred_ranks(column[rows]) for column in columns)
        scale = math.sqrt(float(first @ first) * float(second @ second))
        return float(first @ second) / scale if scale > 0 else math.nan

    return bootstrap(spearman, clusters)


def share(hits: NDArray[np.bool_], clusters: Sequence[str]) -> Interval:
    """Share of hits, (n,), with Wilson's interval for the effective number of sessions.

    There must be at least one session; clusters, (n,), are their transmitters.
    """
    p, n_effective = _share_of_effective(hits, clusters)
    z2 = _Z95**2 / n_effective
    centre = (p + z2 / 2) / (1 + z2)
    half = _Z95 * math.sqrt(p * (1 - p) / n_effective + z2 / (4 * n_effective)) / (1 + z2)
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def exact_share(hits: NDArray[np.bool_], clusters: Sequence[str]) -> Interval:
    """As `share`, with the interval of Clopper and Pearson.

    It is wider. However few the sessions, it misses the truth at each end in at most one of forty
    draws, which Wilson's does on average alone: one session never shows that a share is low.
    """
    p, n_effective = _share_of_effective(hits, clusters)
    n_hits, n_others = p * n_effective, (1 - p) * n_effective
    low = float(betaincinv(n_hits, n_others + 1, 0.025)) if n_hits else 0.0
    high = float(betaincinv(n_hits + 1, n_others, 0.975)) if n_others else 1.0
    return Interval(p, low, high)


def _share_of_effective(hits: NDArray[np.bool_], clusters: Sequence[str]) -> tuple[float, float]:
    """Share of hits, and the number of independent sessions with the same scatter.

    Sessions of a single transmitter, or all of one kind, count as independent: they have no
    scatter to tell.
    """
    n, p = len(hits), float(np.mean(hits))
    _, member_of = np.unique(np.asarray(clusters), return_inverse=True)
    excess = np.bincount(member_of, weights=hits - p)
    k, design_effect = len(excess), 1.0
    if k > 1 and p not in (0.0, 1.0):
        # Variance of the share over that of a simple random sample.
        between = k / (k - 1) * float(np.sum(excess**2)) / n**2
        design_effect = max(1.0, between / (p * (1 - p) / (n - 1)))
    return p, n / design_effect
