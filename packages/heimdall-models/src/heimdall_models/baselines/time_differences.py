"""A position from time differences alone: the baseline for a network that knows geometry.

Weighted least squares on the times of arrival, each weighted by its own noise and by one clock
error for all, from the best point of a grid on; see `heimdall_models.timing.solver`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from heimdall_models.errors import ModelError
from heimdall_models.timing.network import N_COLUMNS, WIDE_S, region_grid, region_prior
from heimdall_models.timing.receivers import SPEED_IN_AIR_M_S, ReceiverRanges, ReceiverSite
from heimdall_models.timing.solver import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.region import Region

N_STEPS = 10
CONVERGED_M = 1.0
"""Longest last step of a converged solution."""


class TimedPositions(NamedTuple):
    """Positions by least squares, their covariances, and whether they converged."""

    position_deg: NDArray[np.float64]
    """`(n, 2)`: latitude and longitude, WGS84."""
    covariance_m2: NDArray[np.float64]
    """`(n, 2, 2)`: of the error, east and north, square metres, as the solver claims it."""
    converged: NDArray[np.bool_]
    """`(n,)`: at least three receivers, and the last step shorter than a metre."""


def locate_by_time_differences(
    arrivals: ArrayLike,
    sites: Sequence[ReceiverSite],
    region: Region,
    *,
    clock_error_s: float = 1e-7,
) -> TimedPositions:
    """Positions by weighted least squares.

    Args:
        arrivals: `(n, receivers, 5)`, as the arrival extractor returns them.
        sites: The receivers, in that order.
        region: The prior is that transmitters are somewhere in it.
        clock_error_s: Standard deviation of the receivers' clocks.

    Raises:
        ModelError: If the arrivals are of another shape, or a receiver too far from the region.
    """
    ranges = ReceiverRanges(region, sites).double()
    rows = torch.from_numpy(np.asarray(arrivals, dtype=np.float64))
    if rows.shape[1:] != (len(sites), N_COLUMNS):
        raise ModelError(
            f"arrivals must be (n, {len(sites)}, {N_COLUMNS}); got {tuple(rows.shape)}"
        )
    unit_s = region.scale_m / SPEED_IN_AIR_M_S
    heard, times, sigma = rows[..., 0], *(rows[..., n] * 1e-6 / unit_s for n in (1, 2))
    prior = region_prior(len(rows)).double()
    with torch.no_grad():
        wide, weights = (
            heard / (sigma.square() + (error_s / unit_s) ** 2)
            for error_s in (WIDE_S, clock_error_s)
        )
        near = Problem(ranges, times, wide, prior).solve_from_grid(region_grid(torch.float64))
        found = Problem(ranges, times, weights, prior).solve(near, N_STEPS)
    ended = (found.shift * region.scale_m < CONVERGED_M) & (heard.sum(dim=1) >= 3)
    ee, en, nn = found.covariance.numpy().T * region.scale_m**2
    return TimedPositions(
        region.to_degrees(found.position.numpy()),
        np.stack([ee, en, en, nn], axis=-1).reshape(-1, 2, 2),
        ended.numpy(),
    )
