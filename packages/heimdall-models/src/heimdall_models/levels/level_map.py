"""Level likelihood on a map: a posterior over the plane, in closed form.

At a place, the levels of one session are Gaussian: each receiver's own deviations (fading, and
the error of the map) are independent, and the transmitter's unknown power moves all of them alike.
The covariance of n levels is v 1 + c 1 1^T, so with residuals of mean m and scatter s

    e^T (v 1 + c 1 1^T)^-1 e = s / v + n m^2 / (v + n c)
    log det                  = (n - 1) log v + log(v + n c)

Powers are a mixture of Gaussians, so the likelihood is one too. Absent receivers drop out.

Real receivers are less faithful than this. Their gains change from season to season, when cables
and amplifiers are replaced, and nothing in one season's training tells by how much. So each
session is of training's own season or, by odds, of another, in which every gain has moved by itself
and v is larger. The levels themselves tell which: of another season they fit nowhere as well.
In their own season, deviations have heavier tails than Gaussian, and those of near receivers go
together: fewer receivers count than there are. So the posterior is that of the likelihood to the
power of 1 / temperature. Odds and temperature are those whose posteriors are densest at the places
of sessions that the map was made without (`Trust.of`).

Sources of the temperature: P. Grünwald, "The safe Bayesian", ALT 2012; P. G. Bissiri, C. C. Holmes
and S. G. Walker, "A general framework for updating belief distributions", J. Royal Statistical
Society B 78 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import softmax

from heimdall_models.levels.received_power import checked_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.levels.grid import Grid
    from heimdall_models.levels.received_power import TrainingLevels
    from heimdall_models.region import Region

N_KNOWN = 3
"""Gaussians for powers as in training."""
REACH = 1.2
"""Distance of the outer Gaussians from the middle one in standard deviations of the training
powers: flat enough for a uniform distribution, which ends at 1.73."""
LEAST_SPACING_DB = 0.5
"""Nearer Gaussians are one."""
OTHERWISE = 0.04
"""Share of sessions with powers unlike any in training."""
OTHERWISE_DB = 15.0
"""Standard deviation of their power."""
_ROUNDS = 60
"""Steps of expectation and maximisation."""
SEASONS = (0.0, 25.0, 100.0)
"""dB^2 by which gains vary in training's own season and in others. Between two months, those of
the receivers of POWDER FRS move by 5 to 17 dB."""
ODDS = (6.0, 1.0, 0.1, 0.02)
"""Of training's own season against all others, which are equally likely. At first one session in
seven is of another: a model is used for longer than training recorded."""
TEMPERATURES = (1.0, 1.2, 1.4, 1.7, 2.2)
SHARPNESSES = (1.1, 1.5, 2.0, 3.0)
"""Exponents of the position's weights: above 1 it is nearer to the likeliest place than the mean,
for smaller errors where the posterior is wider than they are."""
PRIOR_SESSIONS = 20
"""Sessions that count as much as the priors of all three, which are their first values."""
_AT_ONCE = 8
"""Sessions; bounds the memory: the posterior of a session is one number for each cell."""


@dataclass(frozen=True, slots=True)
class TransmitPowers:
    """Distribution of transmit powers: a mixture of Gaussians, in dB of the mean power.

    Powers are almost uniform between two limits, which three Gaussians fit, with shares learned
    from training sessions. A wide one covers any power; otherwise the position would have to
    explain why a transmitter is twenty decibels weaker than all of training.

    Source of the fit: A. P. Dempster, N. M. Laird and D. B. Rubin, "Maximum likelihood from
    incomplete data via the EM algorithm", J. Royal Statistical Society B 39 (1977).
    """

    offset_db: NDArray[np.float64]
    """`(N_KNOWN + 1,)`, the wide one last."""
    variance: NDArray[np.float64]
    """The same shape, dB^2."""
    share: NDArray[np.float64]
    """The same shape; they add up to one."""

    def of_season(self, moved_db2: float) -> tuple[tuple[float, float, float], ...]:
        """Offset, variance and share of each Gaussian; one where gains have moved."""
        if moved_db2 == 0:
            return tuple(
                zip(
                    self.offset_db.tolist(),
                    self.variance.tolist(),
                    self.share.tolist(),
                    strict=True,
                )
            )
        known = self.share[:-1] / self.share[:-1].sum()
        mean = float(known @ self.offset_db[:-1])
        second = float(known @ (self.variance + self.offset_db**2)[:-1])
        return ((mean, second - mean**2, 1.0),)

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


class Trust(NamedTuple):
    """How far levels are believed to follow a map."""

    odds: float = ODDS[0]
    temperature: float = TEMPERATURES[0]
    sharpness: float = SHARPNESSES[0]

    @property
    def season_share(self) -> NDArray[np.float64]:
        """Prior probability of each of `SEASONS`."""
        others = len(SEASONS) - 1
        return np.array([self.odds] + [1 / others] * others) / (1 + self.odds)

    @classmethod
    def of(
        cls, training: TrainingLevels, judged: Sequence[tuple[LevelMap, NDArray[np.intp]]]
    ) -> Trust:
        """What suits maps best, each in the rows of training that it was made without.

        Few rows leave it nearly as it is.

        Odds and temperature have the largest mean log-density of the true cells, then the sharpness
        has the smallest mean square of errors.
        """
        heard = np.asarray(training.present.any(axis=1))
        judged = [(level_map, rows[heard[rows]]) for level_map, rows in judged]
        if not any(len(rows) for _, rows in judged):
            return PRIOR_TRUST
        found = [level_map.log_densities(training, rows) for level_map, rows in judged]
        dense = np.concatenate(found).mean(axis=0)
        row, column = np.unravel_index(dense.argmax(), dense.shape)
        best = cls(ODDS[row], TEMPERATURES[column])
        errors = np.concatenate(
            [replace(level_map, trust=best).errors(training, rows) for level_map, rows in judged]
        )
        best = best._replace(sharpness=SHARPNESSES[np.square(errors).mean(axis=0).argmin()])
        weight = len(errors) / (len(errors) + PRIOR_SESSIONS)
        pairs = zip(PRIOR_TRUST, best, strict=True)
        return cls(*(prior * (value / prior) ** weight for prior, value in pairs))


PRIOR_TRUST = Trust()


class PositionEstimate(NamedTuple):
    """Positions and their uncertainty."""

    position_deg: NDArray[np.float64]
    """`(n, 2)`: latitude and longitude, WGS84."""
    covariance_m2: NDArray[np.float64]
    """Covariance of the error east and north, square metres: `(n, 2, 2)`."""

    @property
    def sigma_m(self) -> NDArray[np.float64]:
        """Standard deviations east and north in metres, `(n, 2)`: the ellipse without its tilt."""
        return np.sqrt(np.diagonal(self.covariance_m2, axis1=1, axis2=2))


@dataclass(frozen=True, slots=True)
class LevelMap:
    """Expected level of every receiver for a transmitter in every cell of the plane."""

    region: Region
    grid: Grid
    """The cells in which transmitters may be."""
    mean_db: NDArray[np.float64]
    """`(receivers, cells)`: expected level at the mean transmit power."""
    own_variance: NDArray[np.float64]
    """`(cells,)` in dB^2: of each receiver by itself, fading and the map's error."""
    common_variance: NDArray[np.float64]
    """`(cells,)` in dB^2: of all receivers together, without transmit power."""
    powers: TransmitPowers
    known: NDArray[np.bool_]
    """`(receivers,)`: those that training heard; others weigh nothing."""
    trust: Trust = PRIOR_TRUST

    def __call__(self, levels_db: ArrayLike, present: ArrayLike) -> PositionEstimate:
        """A sharper mean of the posterior, and the covariance about it; see `LevelEstimator`."""
        levels, up = checked_levels(levels_db, present, len(self.mean_db))
        cells, parts = self.grid.cells, []
        for at in range(0, len(levels), _AT_ONCE):
            rows = slice(at, at + _AT_ONCE)
            parts.append(self.moments(self.log_likelihood(levels[rows], up[rows]), cells))
        mean, covariance = (np.concatenate(column) for column in zip(*parts, strict=True))
        return PositionEstimate(self.region.to_degrees(mean), covariance * self.region.scale_m**2)

    def moments(
        self, seasons: NDArray[np.float64], cells: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions `(n, 2)` and covariances about them `(n, 2, 2)` in plane units.

        From `log_likelihood`, `(n, seasons, cells)`, and the middles of these cells.
        """
        logits = self.posterior_logits(seasons)
        mean = softmax(self.trust.sharpness * logits, axis=-1) @ cells
        weights = softmax(logits, axis=-1)
        products = np.stack([cells[:, i] * cells[:, j] for i in (0, 1) for j in (0, 1)], axis=1)
        cross = (weights @ cells)[:, :, None] * mean[:, None]
        about = (weights @ products).reshape(-1, 2, 2) - cross - np.swapaxes(cross, 1, 2)
        # A transmitter is anywhere in its cell.
        within = np.diag(np.square(self.grid.size) / 12)
        return mean, about + mean[:, :, None] * mean[:, None] + within

    def log_likelihood(
        self, levels_db: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Log-density of levels in every cell up to a constant: `(n, seasons, cells)`.

        Levels and presence are `(n, receivers)`; the level of an absent receiver is zero.
        """
        up = (present & self.known).astype(np.float64)
        middle = self.mean_db.mean(axis=1)
        level, mean = (levels_db - middle) * up, self.mean_db - middle[:, None]
        n = up.sum(axis=1, keepdims=True)
        total = level.sum(axis=1, keepdims=True) - up @ mean
        squares = np.square(level).sum(axis=1, keepdims=True) - 2 * level @ mean + up @ mean**2
        average = total / np.maximum(n, 1)
        scatter = np.maximum(squares - total * average, 0.0)
        powers = self.powers
        found = []
        for moved in SEASONS:
            own = self.own_variance + moved
            alone = scatter / own + (n - 1) * np.log(own)
            each = []
            for at, spread, share in powers.of_season(moved):
                joint = own + n * (self.common_variance + spread)
                together = n * np.square(average - at) / joint + np.log(joint)
                each.append(np.log(share) - 0.5 * (alone + together))
            found.append(_log_sum_exp(np.stack(each), 0)[0])
        return np.stack(found, axis=1)

    def posterior_logits(self, seasons: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-posterior of cells up to a constant, `(n, cells)`, from `log_likelihood`."""
        logits = _tempered(seasons, self.trust.temperature)
        return _log_sum_exp(logits + np.log(self.trust.season_share)[:, None], 1)[:, 0]

    def log_densities(
        self, training: TrainingLevels, rows: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Log-probability of the true cell of each session, `(rows, odds, temperatures)`."""
        shares = np.log([Trust(odds).season_share for odds in ODDS])
        true_cells, found = self.grid.cell_of(training.places), []
        for row in rows:
            cell = true_cells[row]
            seasons = self.log_likelihood(training.levels_db[[row]], training.present[[row]])
            columns = []
            for temperature in TEMPERATURES:
                logits = _tempered(seasons, temperature)[0]
                both = np.stack([logits[:, cell], _log_sum_exp(logits, 1)[:, 0]], axis=1)
                at_truth, anywhere = _log_sum_exp(shares[:, :, None] + both, 1)[:, 0].T
                columns.append(at_truth - anywhere)
            found.append(np.stack(columns, axis=1))
        return np.reshape(found, (len(rows), len(ODDS), len(TEMPERATURES)))

    def errors(self, training: TrainingLevels, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Distance from the true place of each session, plane units, `(rows, sharpnesses)`."""
        places, found = training.places, []
        for row in rows:
            seasons = self.log_likelihood(training.levels_db[[row]], training.present[[row]])
            logits = self.posterior_logits(seasons)
            means = np.concatenate(
                [
                    softmax(sharpness * logits, axis=-1) @ self.grid.cells
                    for sharpness in SHARPNESSES
                ]
            )
            found.append(np.hypot(*(means - places[row]).T))
        return np.reshape(found, (len(rows), len(SHARPNESSES)))


def _tempered(seasons: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Log-posterior of cells with each season alone, and its odds: `(n, seasons, cells)`.

    The temperature is of training's season, and of the odds of all: in others, deviations are
    mostly gains, which are independent.
    """
    tempered = seasons / temperature
    odds = _log_sum_exp(tempered, 2) - _log_sum_exp(seasons, 2)
    return np.concatenate([tempered[:, :1], (seasons + odds)[:, 1:]], axis=1)


def _log_sum_exp(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Logarithm of the sum of exponentials over an axis, which stays, with length 1."""
    most = values.max(axis=axis, keepdims=True)
    return np.asarray(most + np.log(np.exp(values - most).sum(axis=axis, keepdims=True)))
