"""Other transmitters at the same time: on the same channel or beside it, each with its own place.

The session's label is the source alone; the others are in the truth (`InterfererTruth`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from heimdall_data.errors import SimulationError

__all__ = ["Interference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """How many others send, where in the band, and how strongly."""

    n_interferers: int = 0
    """In every session, anywhere in the region, with any of the scenario's modulations."""
    offset_hz: float = 0.0
    """Nominal carrier against the source's, above or below it: 0 is co-channel."""
    radiated_dbm: tuple[float, float] = (30.0, 43.0)
    """EIRP, uniform in dB."""

    def __post_init__(self) -> None:
        if self.n_interferers < 0:
            raise SimulationError(f"{self.n_interferers} interferers; give 0 or more")
        if not (math.isfinite(self.offset_hz) and self.offset_hz >= 0):
            raise SimulationError(
                f"interferers' offset_hz is {self.offset_hz}; give 0 or more, it is taken "
                "above and below"
            )
        low, high = self.radiated_dbm
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise SimulationError(
                f"interferers' radiated_dbm is ({low}, {high}); give (least, largest)"
            )
