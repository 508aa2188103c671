"""Errors of arrival times as they occur, one receiver at a time.

An arrival is regular, or it took a detour and is late, or it is wrong: another transmission, a
receiver that is not where it says, a clock that is out. The regular error is Gaussian; a detour
adds an exponential delay (an exponentially modified Gaussian); a wrong arrival may be off by
anything within a broad distribution. Each receiver is explained by itself, so that one that lies
does not spoil the others. Clocks may also all be worse than they should be: the session's scale.

Sources: P.-C. Chen, "A non-line-of-sight error mitigation algorithm in location estimation", IEEE
WCNC 1999, for exponential detours; E. Grushka, "Characterization of exponentially modified
Gaussian peaks in chromatography", Analytical Chemistry 44 (1972), for their density.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

GNSS_CLOCK_S: Final = 6e-8
"""Standard deviation of a receiver's clock that GNSS disciplines, 50 ns, with that of its aerial's
stated place, 10 m."""
SESSION_SCALES: Final = (
    (1.0, 0.99),
    (3.0, 2e-3),
    (9.0, 2e-3),
    (27.0, 2e-3),
    (81.0, 2e-3),
    (243.0, 2e-3),
)
"""Factors of all clocks' and noise's deviation, with the odds of each: one session in a hundred
has a fault that concerns all receivers, of any size from a fifth of a microsecond to 15."""
_REACH: Final = 12.0
"""Half-width of tables, as the inverse hyperbolic sine of an error in deviations: 80,000."""
_N_ENTRIES: Final = 768
_Z: Final = np.sinh(np.linspace(-_REACH, _REACH, _N_ENTRIES))


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorModel:
    """Shares and sizes of errors beside noise and clocks."""

    path_s: float
    """Deviation of the regular error that the path adds."""
    trust: float = 1.0
    """Share, of the logarithm, of a measured coherent error in a path's deviation; the rest is
    `path_s`. 1 where anything may be in the way."""
    detour: float = 0.1
    """Share of arrivals that are late: one path in ten is blocked, or its echo is stronger."""
    detours_s: tuple[float, ...] = (3e-7, 1e-6, 3e-6)
    """Means of late arrivals' excess delays, equally likely: from a street to a mountain."""
    wrong: float = 0.001
    """Share of arrivals that are wrong."""
    wrong_s: float = 1e-4
    """Half-width of a wrong arrival's error, both early and late."""

    def paths_s(self, coherent_s: Float64) -> Float64:
        """Deviation of each regular error, from the coherent error that was measured.

        Both are estimates of one deviation. If both are log-normal, the best one is a weighted
        geometric mean.
        """
        ratio = np.hypot(1.0, coherent_s / self.path_s)
        return np.asarray(self.path_s * ratio**self.trust, dtype=np.float64)

    @lru_cache(maxsize=256)  # noqa: B019 - models are a few constants
    def log_table(self, sigma_s: float) -> Float64:
        """Log-density of an error in 1/s, at the errors that `lookup` uses, `(entries,)`.

        Args:
            sigma_s: Deviation of the regular error.
        """
        # Imported here: it takes 0.3 s.
        from scipy.special import log_ndtr

        regular = 1 - self.detour - self.wrong
        density = regular / (math.sqrt(2 * math.pi) * sigma_s) * np.exp(-(_Z**2) / 2)
        for mean_s in self.detours_s:
            ratio = sigma_s / mean_s
            late = np.exp(ratio**2 / 2 - _Z * ratio + log_ndtr(_Z - ratio))
            density += self.detour / (len(self.detours_s) * mean_s) * late
        # A Cauchy distribution falls slowly enough to be an answer to anything.
        wide_s = math.hypot(self.wrong_s, sigma_s)
        density += self.wrong / (math.pi * wide_s * (1 + (_Z * sigma_s / wide_s) ** 2))
        return np.asarray(np.log(density), dtype=np.float64)


def lookup(tables: Float64, error_s: Float64, sigma_s: Float64) -> Float64:
    """Log-densities of errors `(..., receivers)`, from `(receivers, entries)` of `log_table`."""
    position = np.arcsinh(error_s / sigma_s)
    # Beyond the tables, Cauchy's distribution falls with the square of the error.
    beyond = None
    if position.size and max(position.max(), -position.min()) > _REACH:
        beyond = 2 * np.maximum(np.abs(position) - _REACH, 0.0)
    position += _REACH
    position *= (_N_ENTRIES - 1) / (2 * _REACH)
    np.clip(position, 0.0, _N_ENTRIES - 1.001, out=position)
    index = position.astype(np.int32)
    position -= index
    index += np.arange(len(tables), dtype=np.int32) * _N_ENTRIES
    flat = tables.ravel()
    low = flat.take(index)
    index += 1
    found: Float64 = low + position * (flat.take(index) - low)
    return found if beyond is None else found - beyond
