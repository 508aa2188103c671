"""The test of a difference between two models on the same sessions, and its size.

Two sessions of one transmitter share its terrain and its power: where one model is better on the
first, it tends to be on the second. A test that counts sessions, such as Wilcoxon's signed ranks,
finds differences where there are none. Here a transmitter is one observation: if the models are
interchangeable, all of a transmitter's differences may change sign together. All combinations of
signs, or ten thousand of them, give the p-value, without a normal distribution or equal numbers
of sessions. Intervals come from resampling transmitters.

Sources: R. A. Fisher, "The Design of Experiments" (1935), section 21 (the sign-change test);
I. A. Canay, J. P. Romano and A. M. Shaikh, Econometrica 85 (2017) (the same for clusters);
A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from heimdall_evaluation.intervals import Interval, bootstrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heimdall_evaluation.results import Evaluation

Verdict = Literal["A", "B", "no difference", "unknown"]
SIGNIFICANT = 0.05
FEWEST_SOURCES = 6
"""With fewer transmitters, no outcome is rarer than one in twenty."""
_ALL_SIGNS = 13
"""With more transmitters, signs are drawn instead of enumerated."""
_DRAWS = 9_999
LEAST_M = 1e-3
"""An error of exactly zero has no logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A difference between B and A, with its 95 % interval and its p-value (two-sided)."""

    difference: Interval
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Differences of two models, and their significance."""

    n_sessions: int
    n_sources: int
    error_ratio: Paired
    """B's error over A's: the geometric mean of the sessions' ratios; below 1, B is better."""
    nll: Paired
    """B's negative log-density of the truth less A's, in nats a session; below 0, B is better."""

    @property
    def verdict(self) -> Verdict:
        """The model with the smaller errors, if the sessions show it."""
        return self._better(self.error_ratio, even=1.0)

    @property
    def nll_verdict(self) -> Verdict:
        """The model with the higher likelihood, which judges the posterior too."""
        return self._better(self.nll, even=0.0)

    def _better(self, found: Paired, even: float) -> Verdict:
        if self.n_sources < FEWEST_SOURCES:
            return "unknown"
        if found.p >= SIGNIFICANT:
            return "no difference"
        return "B" if found.difference.value < even else "A"


def outcome(a: Evaluation, b: Evaluation) -> Outcome:
    """Compare two evaluations of the same sessions in the same order."""
    sources = a.source_names
    ratio = np.log(np.maximum(b.error_m, LEAST_M)) - np.log(np.maximum(a.error_m, LEAST_M))
    error = _paired(ratio, sources)
    found = error.difference
    times = Interval(*(math.exp(each) for each in (found.value, found.low, found.high)))
    return Outcome(
        n_sessions=len(a),
        n_sources=len(set(sources)),
        error_ratio=Paired(difference=times, p=error.p),
        nll=_paired(log_densities(a) - log_densities(b), sources),
    )


def log_densities(evaluation: Evaluation) -> NDArray[np.float64]:
    """(n,): logarithm of the claimed density at the truth, in kilometres, as in `nll_mixture`."""
    return -evaluation.scores().nll


def sign_change_p(differences: NDArray[np.float64], clusters: Sequence[str]) -> float:
    """Two-sided p-value of a mean difference of zero, (n,), when whole clusters may change sign."""
    _, member_of = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(member_of, weights=differences)
    others = np.abs(_signs(len(sums)) @ sums)
    # Sums in another order differ in their last digits.
    return float(np.mean(others >= abs(float(sums.sum())) * (1 - 1e-9)))


def _signs(n: int) -> NDArray[np.float64]:
    """(draws, n) of plus and minus one; the observed signs are among them."""
    if n <= _ALL_SIGNS:
        every = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return 1 - 2 * every.astype(np.float64)
    drawn = np.random.default_rng(0).choice((-1.0, 1.0), size=(_DRAWS, n))
    return np.concatenate([np.ones((1, n)), drawn])


def _paired(differences: NDArray[np.float64], clusters: Sequence[str]) -> Paired:
    mean = bootstrap(lambda rows: float(differences[rows].mean()), clusters)
    return Paired(difference=mean, p=sign_change_p(differences, clusters))
