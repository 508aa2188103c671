"""Augmentation of IQ: changes between a transmitter and a file that do not move the transmitter.

Each is applied to the IQ itself, before any feature is made.
"""

# numpy.random loads when it is first named, and takes as long as all the rest.
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from heimdall_features.errors import FeatureError
from heimdall_features.signal import Samples, require_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Nuisances", "augment_iq"]

Recordings = Mapping[str, tuple[Samples, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuisances:
    """How far each nuisance may go; 0 (or None) turns one off."""

    gain_db: float = 6.0
    """One gain for all receivers, up to this either way: the transmit power is unknown."""
    snr_db: float | None = None
    """Noise is added to each receiver at this ratio to its own power: local interference."""
    offset_hz: float = 50.0
    """Each receiver's own, up to this either way: oscillators drift with temperature."""
    phase: bool = True
    """Each receiver's own: no two oscillators start together."""
    shift_s: float = 0.0
    """All recordings start up to this much later: nobody presses a key on time."""

    def __post_init__(self) -> None:
        """Refuse settings that are not finite or negative.

        Raises:
            FeatureError: says which setting is wrong.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if not math.isfinite(value) or (value < 0 and field.name != "snr_db"):
                raise FeatureError(f"{field.name} is {value}; it must be finite and not negative")


def augment_iq(
    recordings: Recordings, rng: np.random.Generator, nuisances: Nuisances = Nuisances()
) -> dict[str, tuple[NDArray[np.complex64], float]]:
    """One moment as it might have been received on another day, its position unchanged.

    Args:
        recordings: by receiver, complex IQ `(n_samples,)` and its sample rate in Hz.
        rng: every draw comes from it.
        nuisances: how far each may go.

    Returns:
        New recordings, complex64, at the same rates.

    Raises:
        FeatureError: when a recording is not complex IQ, or shorter than the shift.
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
                f"receiver {name!r}: {iq.size} samples at {rate_hz} Hz end before a start that is "
                f"{shift_s:.3f} s late; lower shift_s (now {nuisances.shift_s})"
            )
        changed[name] = (_received(iq[n_late:] * gain, rate_hz, rng, nuisances), rate_hz)
    return changed


def _received(
    iq: Samples, rate_hz: float, rng: np.random.Generator, nuisances: Nuisances
) -> NDArray[np.complex64]:
    offset_hz = rng.uniform(-nuisances.offset_hz, nuisances.offset_hz)
    phase = rng.uniform(0.0, 2 * np.pi) if nuisances.phase else 0.0
    turns = offset_hz * np.arange(iq.size) / rate_hz
    out = iq * np.exp(1j * (2 * np.pi * turns + phase))
    if nuisances.snr_db is not None:
        power = np.mean(np.square(np.abs(out))) * 10 ** (-nuisances.snr_db / 10)
        noise = rng.normal(size=iq.size) + 1j * rng.normal(size=iq.size)
        out += np.sqrt(power / 2) * noise
    return np.asarray(out, dtype=np.complex64)
