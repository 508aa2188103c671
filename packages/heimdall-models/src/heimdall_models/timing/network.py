"""Position and ellipse from times of arrival, by geometry with learned errors.

Geometry solves the position under each of a few hundred explanations of the times (clocks that are
worse than they should be, receivers that hear a detour only), all at once. The solutions are
weighted by the likelihood of their explanations and their prior odds: their centre is the position,
and their own covariances with their spread are the ellipse. The expected errors, the odds of each
explanation and the shape of the ellipse are learned.

Source of the weighting: J. A. Hoeting, D. Madigan, A. E. Raftery and C. T. Volinsky, "Bayesian
model averaging", Statistical Science 14 (1999).
"""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from heimdall_models.ellipses import (
    cut_to,
    outer,
    precision_of,
    sigma_and_correlation,
    stretched,
)
from heimdall_models.errors import ModelError
from heimdall_models.mixtures import Mixture
from heimdall_models.timing.receivers import SPEED_IN_AIR_M_S, ReceiverRanges, ReceiverSite
from heimdall_models.timing.solver import Gaussian, Problem, Solution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_models.region import Region

CLOCK_ERRORS_S = (1e-7, 4e-7, 1.6e-6, 6e-6, 2.5e-5)
"""The first is a GNSS clock in lock; each of the others is about four times worse."""
DETOURS_S = (4e-7, 1.5e-6, 6e-6)
"""Mean excess delays of paths that are blocked."""
MOST_SUBSETS = 128
MOST_BLOCKED = 4
N_COLUMNS = 5
"""Columns of arrival times: heard, arrival and sigma in microseconds, SNR and misfit in dB."""
REGION_SIGMA = 0.6
"""Deviation of transmitters anywhere in a region, plane units: a uniform square has 0.58."""
REGION_SHARE = 8 / 9
"""Share of the region in the prior where times give a position by themselves; levels have the rest,
which in an infinite region would triple their deviations."""
WIDE_S = 1e-6
"""Error assumed for the first solution, so that no detour hides it."""
SHARPNESS = 6.0
"""Exponent of the position's weights: above 1 it is nearer to the likeliest explanation's."""
PLAIN_ODDS = 1.0
"""Nats by which the position prefers no faults: a wrong detour costs more than a missed one."""
MOST_STRETCH = 2.0
"""Largest learned change of an axis of the ellipse, in nats."""
MOST_SHRUNK = math.log(2.0)
"""Largest learned reduction of an arrival's sigma, in nats. The extractor's sigma is the bound that
no processing of these samples beats; half of it allows for how well it knows the noise."""
FARTHEST = -2 * math.log(0.001)
"""Squared deviations from the prior within which 99.9 % of its truths are."""
HIDDEN = 32
GRID_POINTS = 24
NO_LIMIT = 1e6
"""Limit of the unexplained before calibration."""
ALL_USUAL = (1.0, 1e3, 0.0)
"""Usual doubt, log sigma and number of receivers before calibration: nothing is strange."""
REACH = 1.15
"""Half-width of the grid of first guesses, in plane units."""
SAME_PLACE = 4.5
"""Squared distance of two solutions, in the sum of their covariances, up to which they are one."""
NO_WEIGHT = 1e-9
"""Weight of a solution that is an earlier one again."""
FULLY = 0.25
"""Doubt beyond the usual from which a session is entirely strange."""
QUANTILE = 0.95
"""Quantile over validation sessions within which a value is usual."""


class TimingEstimate(NamedTuple):
    """Positions and ellipses in plane units, and what geometry leaves unexplained."""

    position: Tensor
    """`(batch, 2)`."""
    covariance: Tensor
    """East-east, east-north, north-north: `(batch, 3)`."""
    unexplained: Tensor
    """Mean square that no explanation removes, in expected deviations; about 1; `(batch,)`.
    Calibrated: as `TimingNet.calibrated` says."""
    doubt: Tensor
    """Probability of a fault in clocks or paths, `(batch,)`."""
    n_heard: Tensor
    """Receivers that heard the transmission, `(batch,)`."""


class Explained(NamedTuple):
    """Solutions under every explanation."""

    heard: Tensor
    """`(batch, receivers)`."""
    logits: Tensor
    """Log-probability of each up to a constant, `(batch, explanations)`."""
    squares: Tensor
    """Squared deviations that its solution leaves, `(batch, explanations)`."""
    solution: Solution

    def detached(self) -> Explained:
        """The same without gradients."""
        solution = Solution(*(part.detach() for part in self.solution))
        return Explained(self.heard, self.logits.detach(), self.squares.detach(), solution)


class Explanations(nn.Module):
    """Every combination of a clock error and of a few receivers on detours, with its prior.

    A session's clocks may be worse than they should be, and some receivers may hear the
    transmission by a detour only. Light takes `unit_s` for one plane unit.
    """

    blocked: Tensor
    clock: Tensor
    detour: Tensor
    by_clock: Tensor
    plain: Tensor

    def __init__(self, n_receivers: int, unit_s: float) -> None:
        super().__init__()
        subsets = _subsets(n_receivers)
        rows = [
            (clock, detour, subset)
            for clock, error_s in enumerate(CLOCK_ERRORS_S)
            for subset in subsets
            for detour, delay_s in enumerate(DETOURS_S)
            # Clocks that are worse than a detour hide it: only the explanation without one stays.
            if (delay_s > error_s if subset else detour == 0)
        ]
        blocked = torch.zeros(len(rows), n_receivers)
        for row, (_, _, subset) in enumerate(rows):
            blocked[row, list(subset)] = 1.0
        self.n_receivers = n_receivers
        self.n_clocks = len(CLOCK_ERRORS_S)
        clock = torch.tensor([clock for clock, _, _ in rows])
        buffers = {
            "blocked": blocked,
            "clock": clock,
            "by_clock": nn.functional.one_hot(clock, self.n_clocks).float(),
            "plain": ((clock == 0) & (blocked.sum(dim=1) == 0)).float(),
            "detour": torch.tensor([detour for _, detour, _ in rows]),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        self.log_clock = nn.Parameter((torch.tensor(CLOCK_ERRORS_S) / unit_s).log())
        self.log_detour = nn.Parameter((torch.tensor(DETOURS_S) / unit_s).log())
        self.clock_logit = nn.Parameter(torch.tensor([0.0, -3.0, -3.0, -3.0, -3.0]))
        self.detour_logit = nn.Parameter(torch.zeros(len(DETOURS_S)))
        self.blocked_logit = nn.Parameter(torch.tensor(-2.0))

    def __len__(self) -> int:
        return len(self.blocked)

    def errors(self) -> tuple[Tensor, Tensor]:
        """Expected delays and their variances, plane units: `(explanations, receivers)` both."""
        # An exponential detour of mean m has variance m^2.
        detour = self.log_detour.exp()[self.detour].unsqueeze(-1) * self.blocked
        clock = self.log_clock.exp()[self.clock].unsqueeze(-1)
        return detour, detour.square() + clock.square()

    def log_prior(self, heard: Tensor) -> Tensor:
        """Log of the prior probabilities up to a constant, `(batch, explanations)`.

        A receiver that was not heard, by `heard` `(batch, receivers)`, takes no detour.
        """
        n_blocked = self.blocked.sum(dim=1)
        n_heard = heard.sum(dim=1, keepdim=True)
        free = nn.functional.logsigmoid(-self.blocked_logit)
        taken = nn.functional.logsigmoid(self.blocked_logit)
        scale = torch.where(n_blocked > 0, self.detour_logit.log_softmax(0)[self.detour], 0.0)
        prior = self.clock_logit.log_softmax(0)[self.clock] + scale + n_blocked * (taken - free)
        unheard = (1 - heard) @ self.blocked.T
        return torch.where(unheard > 0, -1e4, prior + n_heard * free)


def _subsets(n_receivers: int) -> list[tuple[int, ...]]:
    """Sets of receivers that may be blocked, from none to the largest that MOST_SUBSETS allows."""
    subsets: list[tuple[int, ...]] = []
    for size in range(min(MOST_BLOCKED, n_receivers - 1) + 1):
        if len(subsets) + math.comb(n_receivers, size) > MOST_SUBSETS and size > 1:
            break
        subsets += itertools.combinations(range(n_receivers), size)
    return subsets


class TimingNet(nn.Module):
    """Positions and covariances in plane units, from times of arrival at two sites or more.

    Receivers may have constant delays `delays_s`, seconds by which their times are late, known to
    standard deviations `delay_spreads_s`; both in channel order, or empty for none.

    Raises:
        ModelError: If there are fewer sites, one is too far from the region, or delays are not one
            finite number a site.
    """

    grid: Tensor
    log_temperature: Tensor
    log_temperature_of_strangers: Tensor
    """One for each way of `strangeness`."""
    usual: Tensor
    unexplained_limit: Tensor
    region_share: Tensor
    """`REGION_SHARE`, or 0 in networks of earlier versions."""
    delays: Tensor
    """Constant delays of the receivers, in channel order, plane units."""
    delay_spreads: Tensor
    """Standard deviations of what is left of them, likewise."""

    def __init__(
        self,
        region: Region,
        sites: Sequence[ReceiverSite],
        delays_s: Sequence[float] = (),
        delay_spreads_s: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if len(sites) < 2:
            raise ModelError(f"{len(sites)} receivers have no time difference; give two or more")
        self.unit_s = region.scale_m / SPEED_IN_AIR_M_S
        self.ranges = ReceiverRanges(region, sites)
        self.explanations = Explanations(len(sites), self.unit_s)
        self.noise = _perceptron(3, 1)
        self.coherent = nn.Parameter(torch.tensor(0.5))
        self.shape = _perceptron(self.explanations.n_clocks + 7, 3)
        self.register_buffer("log_temperature", torch.zeros(()))
        self.register_buffer("log_temperature_of_strangers", torch.zeros(3))
        self.register_buffer("usual", torch.tensor(ALL_USUAL))
        self.register_buffer("unexplained_limit", torch.tensor(NO_LIMIT))
        self.register_buffer("region_share", torch.tensor(REGION_SHARE))
        for name, given_s in (("delays", delays_s), ("delay_spreads", delay_spreads_s)):
            values = torch.tensor([*given_s] or [0.0] * len(sites), dtype=torch.float64)
            if values.shape != (len(sites),) or not values.isfinite().all():
                raise ModelError(
                    f"{name}_s is {[*given_s]}; give a finite number of seconds for each of "
                    f"{len(sites)} receivers, or none"
                )
            self.register_buffer(name, (values / self.unit_s).float())
        if (self.delay_spreads < 0).any():
            raise ModelError(f"delay_spreads_s is {[*delay_spreads_s]}; none may be negative")
        self.register_buffer("grid", region_grid(), persistent=False)

    def forward(self, arrivals: Tensor, prior: Gaussian) -> TimingEstimate:
        """The estimate of each session, calibrated.

        Args:
            arrivals: `(batch, receivers, 5)`, as the arrival extractor returns them.
            prior: Prior of the positions, from levels or the region. Where fewer than two
                receivers were heard, it is the estimate.
        """
        return self.calibrated(self.estimate(self.explain(arrivals, prior)), prior)

    def calibrated(self, found: TimingEstimate, prior: Gaussian) -> TimingEstimate:
        """The estimate with calibrated ellipses, none of them wider than the prior's.

        Its `unexplained` is the largest of three shares of what is usual: the mean square that no
        explanation removes, over its limit; the squared distance from the prior, over that of
        99.9 % of its truths; the distance from the region's centre, over the reach of the grid.
        The last two count above 1 only. Above 1 the ellipse is wider by that factor.
        """
        timed = (found.n_heard >= 2).to(found.doubt.dtype)
        away = prior.distance(found.position) / FARTHEST
        outside = found.position.abs().amax(dim=1) / REACH
        far = torch.maximum(away, outside)
        misfit = found.unexplained / self.unexplained_limit
        unexplained = timed * torch.maximum(misfit, far * (far > 1))
        ways = strangeness(found, self.usual)
        strange = ways.amax(dim=1)
        mean = ways @ self.log_temperature_of_strangers / ways.sum(dim=1).clamp_min(1e-9)
        log_factor = torch.lerp(self.log_temperature, mean, strange)
        widening = 1 + timed * (unexplained.clamp_min(1.0) * log_factor.exp() - 1)
        covariance = cut_to(found.covariance * widening.unsqueeze(1), prior.precision)
        return found._replace(covariance=covariance, unexplained=unexplained)

    def explain(self, arrivals: Tensor, prior: Gaussian) -> Explained:
        """Every explanation's solution; arguments as in `forward`."""
        if arrivals.shape[1:] != (self.explanations.n_receivers, N_COLUMNS):
            raise ModelError(
                f"the network takes arrival times (batch, {self.explanations.n_receivers}, "
                f"{N_COLUMNS}); got {tuple(arrivals.shape)}"
            )
        heard, times, variance = self._times(arrivals)
        delay, spread = self.explanations.errors()
        weights = heard.unsqueeze(1) / (variance.unsqueeze(1) + spread)
        corrected, wide = times.unsqueeze(1) - delay, prior.unsqueeze(1)
        problem = Problem(self.ranges, corrected, weights, wide)
        # The exporter has no gradients, and no operator for doing without them.
        with nullcontext() if torch.compiler.is_exporting() else torch.no_grad():
            by_time = heard / (variance + (WIDE_S / self.unit_s) ** 2)
            rough = Problem(self.ranges, times, by_time, prior).solve_from_grid(self.grid)
            start = rough.unsqueeze(1).expand(-1, len(self.explanations), -1)
            near = problem.solve(start, 2).position
        # The gradient of the last step alone is that of the solution.
        solution = problem.step(near)
        squares = problem.misfit(solution.position)
        evidence = _log_evidence(problem, solution, squares, heard.unsqueeze(1))
        return Explained(heard, evidence + self.explanations.log_prior(heard), squares, solution)

    def alternatives(self, arrivals: Tensor, prior: Gaussian, hypotheses: Mixture) -> Mixture:
        """Places that the times allow, as many as there are hypotheses, before calibration.

        With three receivers or more they are the distinct solutions of the times under `prior`,
        such as two mirror images; with fewer, each hypothesis by itself combined with the times.
        Either is weighted by its evidence. Only clocks explain errors here: detours move a place
        less than alternatives are apart, and this costs a hundredth of `explain`.

        Args:
            arrivals: As in `forward`.
            prior: As in `forward`, `(batch,)`.
            hypotheses: The prior of sessions of fewer receivers.
        """
        heard, times, variance = self._times(arrivals)
        timed = (heard.sum(dim=1) >= 3)[:, None]
        by_grid = heard / (variance + (REACH / (GRID_POINTS - 1)) ** 2)
        coarse = Problem(self.ranges, times[:, None], by_grid[:, None], prior.unsqueeze(1))
        misfit, n_places = coarse.misfit(self.grid), hypotheses.weights.shape[1]
        basins = self.grid[lowest_minima(misfit + coarse.prior.distance(self.grid), n_places)]
        precision = precision_of(*sigma_and_correlation(hypotheses.covariances))
        own = Gaussian(hypotheses.means, precision)
        nearest = (misfit[:, None] + own.unsqueeze(2).distance(self.grid)).argmin(dim=2)
        start = torch.where(timed[..., None], basins, self.grid[nearest])
        each = Gaussian(
            torch.where(timed[..., None], prior.mean[:, None], own.mean),
            torch.where(timed[..., None], prior.precision[:, None], own.precision),
        )
        by_time = heard / (variance + (WIDE_S / self.unit_s) ** 2)
        rough = Problem(self.ranges, times[:, None], by_time[:, None], each).solve(start, 5)
        clock = self.explanations.log_clock.exp().square()[:, None]
        weights = heard[:, None, None] / (variance[:, None, None] + clock)
        problem = Problem(self.ranges, times[:, None, None], weights, each.unsqueeze(2))
        solution = problem.solve(rough.position.unsqueeze(2).expand(-1, -1, len(clock), -1), 3)
        squares = problem.misfit(solution.position)
        evidence = _log_evidence(problem, solution, squares, heard[:, None, None])
        logits = evidence + self.explanations.clock_logit.log_softmax(0)
        share = logits.softmax(dim=2).unsqueeze(-1)
        means = (share * solution.position).sum(dim=2)
        spread = outer(solution.position - means.unsqueeze(2))
        covariances = (share * (solution.covariance + spread)).sum(dim=2)
        ee, en, nn = each.precision.unbind(dim=-1)
        odds = torch.where(timed, 0.0, hypotheses.weights.log() + (ee * nn - en.square()).log() / 2)
        odds = odds + logits.logsumexp(dim=2)
        again = timed & repeats(means, covariances)
        weights = torch.where(again, -1e4, odds).softmax(dim=1).clamp_min(NO_WEIGHT)
        return Mixture(weights / weights.sum(dim=1, keepdim=True), means, covariances)

    def with_alternatives(
        self, arrivals: Tensor, prior: Gaussian, hypotheses: Mixture, found: TimingEstimate
    ) -> tuple[TimingEstimate, Mixture]:
        """The calibrated estimate with the covariance of the whole posterior, and its mixture.

        With three receivers or more, the estimate is the one of the `alternatives` that is nearest.
        """
        others = self.alternatives(arrivals, prior, hypotheses)
        timed = (found.n_heard >= 2).to(found.doubt.dtype)[:, None, None]
        wider = others.covariances * (1 + timed * (self.log_temperature.exp() - 1))
        away = (others.means - found.position.unsqueeze(1)).square().sum(dim=2)
        away = torch.where(others.weights > 2 * NO_WEIGHT, away, away + 1e4)
        places = torch.arange(away.shape[1], device=away.device)
        is_found = places == away.argmin(dim=1, keepdim=True)
        is_found = (is_found & (found.n_heard >= 3)[:, None])[..., None]
        mixture = Mixture(
            others.weights,
            torch.where(is_found, found.position[:, None], others.means),
            torch.where(is_found, found.covariance[:, None], wider),
        )
        whole = mixture.covariance_about(found.position)
        covariance = torch.where((found.n_heard >= 2)[:, None], whole, found.covariance)
        return found._replace(covariance=covariance), mixture

    def estimate(self, explained: Explained) -> TimingEstimate:
        """The weighted solutions as one Gaussian, not yet calibrated."""
        share = explained.logits.softmax(dim=1)
        preferred = explained.logits + PLAIN_ODDS * self.explanations.plain
        sharp = (preferred * SHARPNESS).softmax(dim=1)
        solution = explained.solution
        position = (sharp.unsqueeze(-1) * solution.position).sum(dim=1)
        spread = outer(solution.position - position.unsqueeze(1))
        covariance = (share.unsqueeze(-1) * (solution.covariance + spread)).sum(dim=1)
        left = (share * explained.squares).sum(dim=1)
        n_heard = explained.heard.sum(dim=1)
        sigma, tilt = sigma_and_correlation(covariance)
        entropy = -(share * share.clamp_min(1e-12).log()).sum(dim=1)
        others = [
            share @ self.explanations.blocked.sum(dim=1),
            explained.heard.sum(dim=1) / 4 - 1,
            left.log1p(),
            *(sigma.log() / 4 + 2).unbind(dim=-1),
            tilt,
            entropy / 4,
        ]
        seen = [share @ self.explanations.by_clock, torch.stack(others, dim=-1)]
        changes = torch.tanh(self.shape(torch.cat(seen, dim=1)) / MOST_STRETCH)
        changes = changes * (n_heard >= 2).to(changes.dtype).unsqueeze(1)
        along, shear, across = changes.unbind(dim=-1)
        covariance = stretched(covariance, along * MOST_STRETCH, shear, across * MOST_STRETCH)
        doubt = 1 - share @ self.explanations.plain
        unexplained = left / (n_heard - 1).clamp_min(1.0)
        return TimingEstimate(position, covariance, unexplained, doubt, n_heard)

    def _times(self, arrivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Receivers heard, their times, and the variance of the noise; plane units."""
        heard, arrival_us, sigma_us, snr_db, misfit_db = arrivals.unbind(dim=-1)
        unit_us = 1e6 * self.unit_s
        sigma = (sigma_us / unit_us).clamp_min(1e-7)
        misfit_db = misfit_db.clamp_min(0.0)
        inputs = torch.stack([sigma.log() / 4 + 2, snr_db / 20, misfit_db / 5], dim=-1)
        # A misfit, however far from those of training, makes no time more certain.
        without = self.noise(inputs * inputs.new_tensor([1.0, 1.0, 0.0]))
        learned = torch.maximum(self.noise(inputs), without).squeeze(-1)
        widen = torch.tanh(learned / MOST_STRETCH) * MOST_STRETCH
        # The share of a misfit that is not noise: an echo does not average out.
        beyond = self.coherent.abs() * misfit_db * (math.log(10) / 20)
        noise = (sigma * (widen.clamp_min(-MOST_SHRUNK) + beyond).exp()).square()
        times = arrival_us / unit_us - self.delays
        return heard, times, noise + self.delay_spreads.square()


def _log_evidence(problem: Problem, solution: Solution, squares: Tensor, heard: Tensor) -> Tensor:
    """Log-evidence of a solution that leaves these squares, up to the prior's normalisation.

    The position and the time of emission are integrated out.
    """
    weights = problem.weights
    log_weights = torch.where(heard > 0, weights.clamp_min(1e-12).log(), 0.0)
    emission = weights.sum(dim=-1).clamp_min(1e-12).log()
    spent = squares + problem.prior.distance(solution.position)
    return (log_weights.sum(dim=-1) - emission - solution.log_determinant - spent) / 2


def lowest_minima(cost: Tensor, n_minima: int) -> Tensor:
    """The lowest local minima of a cost on the grid `(batch, points)`: `(batch, n_minima)`.

    Where there are fewer, other points follow.
    """
    square = cost.reshape(-1, 1, GRID_POINTS, GRID_POINTS)
    around = -nn.functional.max_pool2d(-square, 3, stride=1, padding=1)
    height = torch.where(square <= around, square, square + 1e9).reshape(-1, GRID_POINTS**2)
    return (-height).topk(n_minima, dim=1).indices


def repeats(means: Tensor, covariances: Tensor) -> Tensor:
    """True for places that are an earlier one of the same batch again, `(batch, places)`."""
    n_places = means.shape[1]
    east, north = (means.unsqueeze(2) - means.unsqueeze(1)).unbind(dim=-1)
    ee, en, nn_ = (covariances.unsqueeze(2) + covariances.unsqueeze(1)).unbind(dim=-1)
    square = nn_ * east.square() - 2 * en * east * north + ee * north.square()
    near = square < SAME_PLACE * (ee * nn_ - en.square())
    earlier = torch.ones(n_places, n_places, device=means.device).tril(-1)
    return (near * earlier).amax(dim=2) > 0


def usual_of(found: TimingEstimate) -> Tensor:
    """Limits of the usual, `(3,)`: most doubt, largest log sigma, fewest receivers."""
    return torch.stack(
        [
            torch.quantile(found.doubt, QUANTILE),
            torch.quantile(_log_sigma(found), QUANTILE),
            torch.quantile(found.n_heard, 1 - QUANTILE),
        ]
    )


def strangeness(found: TimingEstimate, usual: Tensor) -> Tensor:
    """0 for sessions like those of `usual_of`, up to 1 for others, in three ways: `(batch, 3)`.

    1 is a quarter more doubt, an ellipse e times larger, or one receiver fewer.
    """
    doubt, log_sigma, n_heard = usual.unbind()
    ways = [(found.doubt - doubt) / FULLY, _log_sigma(found) - log_sigma, n_heard - found.n_heard]
    return torch.stack(ways, dim=1).clamp(0.0, 1.0)


def _log_sigma(found: TimingEstimate) -> Tensor:
    """Logarithm of the root of the covariance's trace, `(batch,)`."""
    ee, _, nn = found.covariance.unbind(dim=-1)
    return (ee + nn).log() / 2


def region_prior(batch_size: int, device: torch.device | None = None) -> Gaussian:
    """The prior that a transmitter is somewhere in the region."""
    mean = torch.zeros(batch_size, 2, device=device)
    precision = torch.tensor([REGION_SIGMA**-2, 0.0, REGION_SIGMA**-2], device=device)
    return Gaussian(mean, precision.expand(batch_size, 3))


def region_grid(dtype: torch.dtype = torch.float32) -> Tensor:
    """Points all over the region, where solutions start: `(points, 2)`."""
    axis = torch.linspace(-REACH, REACH, GRID_POINTS, dtype=dtype)
    return torch.cartesian_prod(axis, axis)


def _perceptron(n_inputs: int, n_outputs: int) -> nn.Sequential:
    """A small network whose output is zero until it has learned something."""
    last = nn.Linear(HIDDEN, n_outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_inputs, HIDDEN), nn.GELU(), last)
