"""Augmentation of IQ: changes between transmitter and file that do not depend on the position."""

# Annotations are not evaluated: numpy.random takes as long to load as the rest of this package.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_features.errors import FeatureError, require_limits
from heimdall_features.signal import Samples, require_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

Recordings = Mapping[str, tuple[Samples, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuisances:
    """Limit of each nuisance; 0 or None turns it off. An invalid limit raises a `FeatureError`."""

    gain_db: float = 6.0
    """Largest gain, up or down, common to all receivers: the transmit power is unknown."""
    snr_db: float | None = None
    """Signal-to-noise ratio of the noise added at each receiver: local interference."""
    offset_hz: float = 50.0
    """Largest carrier offset, up or down, drawn per receiver: oscillators drift."""
    phase: bool = True
    """Draw a phase per receiver: oscillators start at any phase."""
    shift_s: float = 0.0
    """Largest delay of the start, common to all recordings."""

    def __post_init__(self) -> None:
        require_limits(asdict(self), signed="snr_db")


def augment_iq(
    recordings: Recordings, rng: np.random.Generator, nuisances: Nuisances = Nuisances()
) -> dict[str, tuple[NDArray[np.complex64], float]]:
    """Return simultaneous recordings as they could be on another day, with the same position.

    Args:
        recordings: By receiver, complex IQ `(n_samples,)` and its sample rate in Hz.
        rng: Source of all random draws.
        nuisances: Limit of each nuisance.

    Returns:
        New complex64 recordings at the same rates.

    Raises:
        FeatureError: A recording is not complex IQ, or is shorter than the shift.
    """
    gain = 10 ** (rng.uniform(-nuisances.gain_db, nuisances.gain_db) / 20)
    shift_s = rng.uniform(0.0, nuisances.shift_s)
    changed = {}
    for name, (iq, rate_hz) in recordings.items():
        if iq.ndim != 1 or iq.dtype.kind != "c":
            raise FeatureError(
                f"receiver {name!r}: IQ is complex (n_samples,), not {iq.dtype} {iq.shape}"
            )
        n_late = round(shift_s * require_rate(rate_hz))
        if n_late >= iq.size:
            raise FeatureError(
                f"receiver {name!r}: {iq.size} samples at {rate_hz} Hz end before the drawn start "
                f"at {shift_s:.3f} s; lower shift_s (now {nuisances.shift_s})"
            )
        late = iq[n_late:] * gain
        offset_hz = rng.uniform(-nuisances.offset_hz, nuisances.offset_hz)
        phase = rng.uniform(0.0, 2 * np.pi) if nuisances.phase else 0.0
        turns = offset_hz * np.arange(late.size) / rate_hz
        out = late * np.exp(1j * (2 * np.pi * turns + phase))
        if nuisances.snr_db is not None:
            power = np.mean(np.square(np.abs(out))) * 10 ** (-nuisances.snr_db / 10)
            noise = rng.normal(size=late.size) + 1j * rng.normal(size=late.size)
            out += np.sqrt(power / 2) * noise
        changed[name] = (np.asarray(out, dtype=np.complex64), rate_hz)
    return changed
