"""What a method's answers are worth: figures for the JSON, intervals for the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from heimdall_evaluation.intervals import Interval, bootstrap, share

LEVELS = (68, 90, 95)
QUANTILES = {"median_m": 0.5, "p90_m": 0.9, "p95_m": 0.95}


@dataclass(frozen=True, eq=False)
class Judged:
    """A method's answers for `n` transmissions."""

    error_m: np.ndarray
    nll: np.ndarray
    """Negative log-density of each truth, nats per square metre."""
    inside: np.ndarray
    """Probability of the smallest region that holds each truth."""

    def figures(self, *names):
        """The contract's figures, of the distances only those named."""
        return {
            **{name: float(np.quantile(self.error_m, QUANTILES[name])) for name in names},
            "nll_per_m2": float(self.nll.mean()),
            **{f"inside_{p}": float((self.inside <= p / 100).mean()) for p in LEVELS},
            "n": len(self.error_m),
        }

    def intervals(self, blocks, *names):
        """The same with 95 % intervals, from resampling whole blocks, `(n,)`."""
        blocks = [str(block) for block in blocks]
        found = {
            name: bootstrap(
                lambda rows, q=QUANTILES[name]: np.quantile(self.error_m[rows], q), blocks
            )
            for name in names
        }
        found["nll_per_m2"] = bootstrap(lambda rows: self.nll[rows].mean(), blocks)
        for p in LEVELS:
            found[f"inside_{p}"] = share(self.inside <= p / 100, blocks)
        return found


def gaussian(offset_m, covariance_m2):
    """Judged from errors `(n, 2)` east and north and their claimed covariances `(n, 2, 2)`."""
    square = (offset_m * np.linalg.solve(covariance_m2, offset_m[..., None])[..., 0]).sum(axis=1)
    spread = np.linalg.slogdet(covariance_m2)[1] / 2
    nll = square / 2 + spread + np.log(2 * np.pi)
    return Judged(np.hypot(*offset_m.T), nll, -np.expm1(-square / 2))


def cell(interval: Interval, digits=0, scale=1.0, unit=""):
    """An interval as a cell of a table: `66 m (60 to 72)`."""
    value, low, high = (
        f"{scale * each:.{digits}f}" for each in (interval.value, interval.low, interval.high)
    )
    return f"{value}{unit} ({low} to {high})" if interval.known else value + unit
