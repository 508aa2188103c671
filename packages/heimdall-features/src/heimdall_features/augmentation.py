"""Training samples as the same transmitter might have sounded on another day.

Every change stands for a nuisance that tells nothing of the position. Nothing here moves the
transmitter: no gain that differs between receivers by more than their calibration error, no
shift of one against another.

`augment_features` works on finished features, and so on cached ones; what only the signal
itself can show (noise, carrier offset, phase, start) is in `heimdall_features.nuisances`.

Source of the masks: D. S. Park et al., "SpecAugment", Interspeech 2019.
"""

# numpy.random loads when it is first named, and takes as long as all the rest.
from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heimdall_features.errors import FeatureError

__all__ = ["Augmentation", "augment_features"]

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far each nuisance may go; 0 turns one off."""

    gain_db: float = 6.0
    """One gain for all receivers, up to this either way: the transmit power is unknown."""
    calibration_db: float = 0.0
    """The standard deviation of the stations' own gain errors. More would move the transmitter."""
    max_shift_frames: int = 31
    """Columns turn around together: when in the session the speaker paused is chance."""
    n_time_masks: int = 1
    """Stretches of time that all receivers lose: a pause of the speaker."""
    max_mask_frames: int = 4
    n_band_masks: int = 1
    """Stretches of bands that all receivers lose: a quieter or narrower modulation."""
    max_mask_bands: int = 8
    drop_probability: float = 0.1
    """For each receiver, as long as one stays: stations are down at times."""
    fill_db: float = -140.0
    """What masks and missing receivers read as: the configuration's `fill_db`."""

    def __post_init__(self) -> None:
        """Refuse settings that are not finite, negative or no probability.

        Raises:
            FeatureError: says which setting is wrong.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or (value < 0 and field.name != "fill_db"):
                raise FeatureError(f"{field.name} is {value}; it must be finite and not negative")
        if self.drop_probability > 1:
            raise FeatureError(f"drop_probability is {self.drop_probability}; it is at most 1")


def augment_features(
    features: NDArray[np.floating[Any]],
    rng: np.random.Generator,
    augmentation: Augmentation = Augmentation(),
) -> Float32:
    """One sample as it might have been on another day, its position unchanged.

    A receiver that was missing stays as it is.

    Args:
        features: `(receivers, n_mels, n_frames)`, dB.
        rng: every draw comes from it.
        augmentation: how far each nuisance may go.

    Returns:
        float32, the same shape, dB; a new array.

    Raises:
        FeatureError: when the features are no such array.
    """
    if features.ndim != 3 or features.dtype.kind != "f" or 0 in features.shape:
        raise FeatureError(
            f"features are {features.dtype} of shape {features.shape}; "
            "give real levels of shape (receivers, n_mels, n_frames)"
        )
    out = features.astype(np.float32)
    absent = (out == out[:, :1, :1]).all(axis=(1, 2))
    heard = np.maximum(out + _gains_db(out.shape[0], rng, augmentation), augmentation.fill_db)
    heard = np.roll(heard, int(rng.integers(augmentation.max_shift_frames + 1)), axis=2)
    for _ in range(augmentation.n_time_masks):
        heard[:, :, _stretch(out.shape[2], augmentation.max_mask_frames, rng)] = (
            augmentation.fill_db
        )
    for _ in range(augmentation.n_band_masks):
        heard[:, _stretch(out.shape[1], augmentation.max_mask_bands, rng)] = augmentation.fill_db
    heard[_dropped(absent, rng, augmentation.drop_probability)] = augmentation.fill_db
    # Last, so that no gain or mask invents a level where there was no receiver.
    heard[absent] = out[absent]
    return np.asarray(heard, dtype=np.float32)


def _gains_db(n_receivers: int, rng: np.random.Generator, augmentation: Augmentation) -> Float32:
    common = rng.uniform(-augmentation.gain_db, augmentation.gain_db)
    own = rng.normal(0.0, augmentation.calibration_db, size=(n_receivers, 1, 1))
    return np.asarray(common + own, dtype=np.float32)


def _stretch(length: int, longest: int, rng: np.random.Generator) -> slice:
    width = int(rng.integers(min(longest, length) + 1))
    start = int(rng.integers(length - width + 1))
    return slice(start, start + width)


def _dropped(
    absent: NDArray[np.bool_], rng: np.random.Generator, probability: float
) -> NDArray[np.bool_]:
    draws = rng.uniform(size=absent.shape)
    dropped = draws < probability
    if (dropped | absent).all() and not absent.all():
        dropped[np.argmax(np.where(absent, -1.0, draws))] = False
    return dropped
