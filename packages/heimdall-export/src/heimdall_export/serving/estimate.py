"""An answer: where a transmitter is, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NO_ANSWER", "Estimate", "estimate_of"]

NO_ANSWER = (
    "its features hold NaN, infinity or what no receiver measures, or are far from all that it was "
    "trained on"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Where a transmitter is (WGS84), and one standard deviation of that along each axis."""

    latitude_deg: float
    longitude_deg: float
    sigma_east_m: float
    sigma_north_m: float
    correlation: float = 0.0
    """Of the errors east and north; 0 from a model of spectrograms alone."""
    unexplained: float | None = None
    """What geometry leaves unexplained of the times of arrival, over the model's limit: above 1
    they are of no kind that it was trained on, and the ellipse is wider by that; 0 without times.
    None from a model that takes none."""


def estimate_of(row: Sequence[float]) -> Estimate | None:
    """A row of the network's outputs; None where one of them is no number."""
    if not all(map(math.isfinite, row)):
        return None
    return Estimate(
        latitude_deg=row[0],
        longitude_deg=row[1],
        sigma_east_m=row[2],
        sigma_north_m=row[3],
        correlation=row[4] if len(row) > 4 else 0.0,
        unexplained=row[5] if len(row) > 5 else None,
    )
