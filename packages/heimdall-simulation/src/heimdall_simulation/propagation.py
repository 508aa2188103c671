"""What the path between two antennas costs, and how long it takes.

Sources: H. T. Friis, "A note on a simple transmission formula", Proc. IRE 34 (1946), for
free space; T. S. Rappaport, "Wireless Communications" (2nd ed., 2002), section 4.9, for the
log-distance law beyond a reference distance. The exponent stands for what terrain and the
horizon do on average: no diffraction is added on top of it, which would count them twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SPEED_OF_LIGHT_M_S",
    "free_space_loss_db",
    "log_distance_loss_db",
    "propagation_delay_s",
]

SPEED_OF_LIGHT_M_S = 299_792_458.0


def free_space_loss_db(distance_m: ArrayLike, frequency_hz: float) -> NDArray[np.float64]:
    """Loss between isotropic antennas in free space, in dB (Friis 1946)."""
    wavelength_m = SPEED_OF_LIGHT_M_S / frequency_hz
    return 20 * np.log10(4 * np.pi * np.asarray(distance_m, dtype=np.float64) / wavelength_m)


def log_distance_loss_db(
    distance_m: ArrayLike, frequency_hz: float, *, exponent: float, reference_m: float
) -> NDArray[np.float64]:
    """Mean path loss in dB: free space to the reference, `10 exponent` dB a decade beyond.

    Source: Rappaport (2002), section 4.9, without its random term (see `world.ShadowingMap`).
    """
    distance = np.asarray(distance_m, dtype=np.float64)
    near = free_space_loss_db(np.minimum(distance, reference_m), frequency_hz)
    return near + 10 * exponent * np.log10(np.maximum(distance / reference_m, 1.0))


def propagation_delay_s(distance_m: ArrayLike) -> NDArray[np.float64]:
    """Travel time in seconds, as in vacuum; air, slower by 0.03 %, is left out."""
    return np.asarray(distance_m, dtype=np.float64) / SPEED_OF_LIGHT_M_S
