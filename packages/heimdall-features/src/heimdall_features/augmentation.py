"""Training samples as the same transmitter might have sounded on another day.

Every change stands for a nuisance that tells nothing of the position. Nothing here moves the
transmitter: no gain that differs between receivers, no shift of one against another.

Masks: D. S. Park et al., "SpecAugment", Interspeech 2019.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heimdall_features.errors import FeatureError

__all__ = ["Augmentation", "augment_features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far each nuisance may go."""

    gain_db: float = 6.0
    """One gain for all receivers, up to this either way: the transmit power is unknown."""
    time_shift: bool = True
    """Columns turn around together: when the operator pressed the key is unknown."""
    n_time_masks: int = 1
    max_mask_frames: int = 4
    """Columns all receivers lose: a pause of the speaker."""
    n_band_masks: int = 1
    max_mask_bands: int = 8
    """Bands all receivers lose: what is on the neighbouring channels."""
    drop_probability: float = 0.1
    """Each receiver, as long as one stays: stations are down at times."""
    fill_db: float = -140.0
    """What masks and missing receivers read as: the configuration's `fill_db`."""


def augment_features(
    features: NDArray[np.floating[Any]],
    rng: np.random.Generator,
    augmentation: Augmentation = Augmentation(),
) -> NDArray[np.float32]:
    """One sample as it might have been on another day, its position unchanged.

    Args:
        features: `(receivers, n_mels, n_frames)`, dB.
        rng: every draw comes from it.
        augmentation: how far each nuisance may go.

    Returns:
        float32, the same shape, dB; a new array.

    Raises:
        FeatureError: when the features are no such array.
    """
    if features.ndim != 3 or features.dtype.kind != "f":
        raise FeatureError(
            f"features are {features.dtype} of shape {features.shape}; "
            "give real levels of shape (receivers, n_mels, n_frames)"
        )
    out = features.astype(np.float32)
    present = (out != np.float32(augmentation.fill_db)).any(axis=(1, 2))
    gain_db = rng.uniform(-augmentation.gain_db, augmentation.gain_db)
    out = np.maximum(out + np.float32(gain_db), np.float32(augmentation.fill_db))
    if augmentation.time_shift:
        out = np.roll(out, int(rng.integers(out.shape[2])), axis=2)
    _mask(out, rng, 2, augmentation.n_time_masks, augmentation)
    _mask(out, rng, 1, augmentation.n_band_masks, augmentation)
    kept = _kept(present, rng, augmentation.drop_probability)
    out[~kept] = augmentation.fill_db
    return out


def _mask(
    out: NDArray[np.float32],
    rng: np.random.Generator,
    axis: int,
    n_masks: int,
    augmentation: Augmentation,
) -> None:
    longest = augmentation.max_mask_frames if axis == 2 else augmentation.max_mask_bands
    for _ in range(n_masks):
        width = int(rng.integers(0, min(longest, out.shape[axis]) + 1))
        start = int(rng.integers(0, out.shape[axis] - width + 1))
        out.swapaxes(axis, 2)[:, :, start : start + width] = augmentation.fill_db


def _kept(
    present: NDArray[np.bool_], rng: np.random.Generator, probability: float
) -> NDArray[np.bool_]:
    draws = rng.uniform(size=present.shape)
    kept = present & (draws >= probability)
    if not kept.any() and present.any():
        kept[np.argmax(np.where(present, draws, -1.0))] = True
    return kept
