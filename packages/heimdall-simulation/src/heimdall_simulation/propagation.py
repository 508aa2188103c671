"""Loss and delay of the path between two antennas.

The exponent of the log-distance law stands for the average effect of terrain and horizon;
diffraction is not added, because it would count twice.

Sources: H. T. Friis, "A note on a simple transmission formula", Proc. IRE 34 (1946), for free
space; T. S. Rappaport, "Wireless Communications" (2nd ed., 2002), section 4.9, for the
log-distance law beyond a reference distance.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPEED_OF_LIGHT_M_S = 299_792_458.0


def free_space_loss_db(distance_m: ArrayLike, frequency_hz: float) -> NDArray[np.float64]:
    """Return the loss between isotropic antennas in free space, in dB (Friis 1946)."""
    wavelength_m = SPEED_OF_LIGHT_M_S / frequency_hz
    return 20 * np.log10(4 * np.pi * np.asarray(distance_m, dtype=np.float64) / wavelength_m)


def log_distance_loss_db(
    distance_m: ArrayLike, frequency_hz: float, *, exponent: float, reference_m: float
) -> NDArray[np.float64]:
    """Return the mean path loss in dB: free space up to the reference, `10 exponent` dB a decade.

    This is Rappaport's law without its random term (see `world.ShadowingMap`).
    """
    distance = np.asarray(distance_m, dtype=np.float64)
    near = free_space_loss_db(np.minimum(distance, reference_m), frequency_hz)
    return near + 10 * exponent * np.log10(np.maximum(distance / reference_m, 1.0))


def propagation_delay_s(distance_m: ArrayLike) -> NDArray[np.float64]:
    """Return the travel time in vacuum, in seconds; air is slower by 0.03 %."""
    return np.asarray(distance_m, dtype=np.float64) / SPEED_OF_LIGHT_M_S
