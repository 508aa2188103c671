"""Distribution of transmit powers: a mixture, learned from sessions with known transmitters.

One Gaussian fits badly: powers are almost uniform between two limits, and it makes a transmitter
twenty decibels weaker than all of training so unlikely that the position must explain the
weakness. The mixture has three Gaussians, whose shares are fitted to the training sessions, and a
wide one that covers any power.

Source of the fit: A. P. Dempster, N. M. Laird and D. B. Rubin, "Maximum likelihood from incomplete
data via the EM algorithm", J. Royal Statistical Society B 39 (1977).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_KNOWN = 3
"""Gaussians for powers as in training."""
REACH = 1.2
"""Distance of the outer two Gaussians from the middle one in standard deviations of the training
powers: flat enough for a uniform distribution, whose ends are at 1.73."""
LEAST_SPACING_DB = 0.5
"""Nearer Gaussians are one."""
OTHERWISE = 0.04
"""Share of sessions with powers unlike any in training."""
OTHERWISE_DB = 15.0
"""Standard deviation of their power."""
_ROUNDS = 60
"""Of expectation and maximisation."""


@dataclass(frozen=True, slots=True)
class TransmitPowers:
    """Mixture of Gaussians of transmit powers, in dB of the mean power."""

    offset_db: NDArray[np.float64]
    """`(N_KNOWN + 1,)`, the wide one last."""
    variance: NDArray[np.float64]
    """The same shape, dB^2."""
    share: NDArray[np.float64]
    """The same shape; they add up to one."""

    @classmethod
    def spaced(cls, power_variance: float) -> TransmitPowers:
        """Equal shares, for powers of that variance in dB^2."""
        spread = max(float(np.sqrt(power_variance)), LEAST_SPACING_DB * (N_KNOWN - 1) / 2 / REACH)
        known = np.linspace(-REACH * spread, REACH * spread, N_KNOWN)
        spacing = known[1] - known[0]
        return cls(
            np.append(known, 0.0),
            np.append(np.full(N_KNOWN, (spacing / 2) ** 2), OTHERWISE_DB**2 + power_variance),
            np.append(np.full(N_KNOWN, (1 - OTHERWISE) / N_KNOWN), OTHERWISE),
        )

    def fitted(
        self,
        residual_db: NDArray[np.float64],
        present: NDArray[np.bool_],
        own_variance: NDArray[np.float64],
        common_variance: NDArray[np.float64],
    ) -> TransmitPowers:
        """The same with the likeliest shares, but for the wide one's.

        Args:
            residual_db: Levels less the map's at the transmitter's place, `(n, receivers)`, of
                sessions that the map was made without.
            present: The same shape.
            own_variance: Of each receiver's deviation, `(n,)` in dB^2.
            common_variance: Of the deviation that all share, without power, `(n,)` in dB^2.
        """
        heard = present.any(axis=1)
        count = present.sum(axis=1)[heard]
        # Of the levels only their mean depends on the power.
        mean = (np.where(present, residual_db, 0.0).sum(axis=1)[heard] / count)[:, None]
        noise = (own_variance[heard] / count + common_variance[heard])[:, None]
        spread = noise + self.variance[:-1]
        density = np.exp(-0.5 * (mean - self.offset_db[:-1]) ** 2 / spread) / np.sqrt(spread)
        density = np.maximum(density, np.finfo(np.float64).tiny)
        share = np.full(N_KNOWN, 1 / N_KNOWN)
        for _ in range(_ROUNDS):
            belongs = density * share
            share = (belongs / belongs.sum(axis=1, keepdims=True)).mean(axis=0)
        return replace(self, share=np.append(share * (1 - OTHERWISE), OTHERWISE))
