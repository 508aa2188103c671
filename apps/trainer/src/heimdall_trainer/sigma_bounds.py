"""Which sigmas a network may claim, as its model file tells: in metres, least and largest.

They bound what levels say. What arrival times or an ensemble's disagreement make of a sigma may
lie beyond.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from heimdall_models.bounded_sigma import BoundedSigma

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

__all__ = ["KEY", "bounds_in", "sigma_bounds_metadata"]

KEY = "heimdall.sigma_bounds_m"


def sigma_bounds_metadata(network: nn.Module, scale_m: float) -> dict[str, str]:
    """What goes into a model file's metadata; nothing where a network has no bounds.

    Args:
        network: What is exported: one network, or several as one.
        scale_m: Metres of a unit of its plane.
    """
    found = [module for module in network.modules() if isinstance(module, BoundedSigma)]
    if not found:
        return {}
    least = min(math.exp(bounded.middle - bounded.half_range) for bounded in found)
    largest = max(math.exp(bounded.middle + bounded.half_range) for bounded in found)
    return {KEY: json.dumps([least * scale_m, largest * scale_m])}


def bounds_in(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """The bounds that a model file tells; None where it is of a version that told none."""
    if KEY not in metadata:
        return None
    least, largest = json.loads(metadata[KEY])
    return float(least), float(largest)
