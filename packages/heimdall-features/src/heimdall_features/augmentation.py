"""Augmentation of features: the same transmitter as it could sound on another day.

Every change stands for a nuisance that does not depend on the position. None of them may look
like a move of the transmitter: gains differ between receivers by no more than their calibration
error, and no receiver is shifted in time against another.

`augment_features` changes computed (and cached) features. Nuisances that only the signal can show
(noise, carrier offset, phase, start) are in `heimdall_features.nuisances`.

Source of the masks: D. S. Park et al., "SpecAugment", Interspeech 2019.
"""

# Annotations are not evaluated: numpy.random takes as long to load as the rest of this package.
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heimdall_features.errors import FeatureError, require_limits
from heimdall_features.normalization import require_form

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Limit of each nuisance; 0 turns it off. An invalid limit raises a `FeatureError`."""

    gain_db: float = 6.0
    """Largest gain, up or down, common to all receivers: the transmit power is unknown."""
    calibration_db: float = 0.0
    """Standard deviation of the stations' gain errors; more would move the transmitter."""
    max_shift_frames: int = 31
    """Largest rotation of all columns together: pauses of the speaker come at random."""
    n_time_masks: int = 1
    """Intervals that are masked at all receivers: a pause of the speaker."""
    max_mask_frames: int = 4
    """Longest masked interval."""
    n_band_masks: int = 1
    """Ranges of bands that are masked at all receivers: a quieter or narrower modulation."""
    max_mask_bands: int = 8
    """Widest masked range."""
    drop_probability: float = 0.1
    """Probability that a receiver is dropped, as stations can be down; one always stays."""
    fill_db: float = -140.0
    """Level of masks and dropped receivers: the configuration's `fill_db`."""

    def __post_init__(self) -> None:
        require_limits(asdict(self), signed="fill_db")
        if self.drop_probability > 1:
            raise FeatureError(f"drop_probability is {self.drop_probability}; it is at most 1")


def augment_features(
    features: NDArray[np.floating[Any]],
    rng: np.random.Generator,
    augmentation: Augmentation = Augmentation(),
) -> Float32:
    """Return a sample as it could look on another day, with the same position.

    A receiver that was missing is unchanged. Shapes: `(receivers, n_mels, n_frames)` in dB give
    a new float32 array of the same shape.

    Raises:
        FeatureError: The features are not such an array.
    """
    require_form(features)
    out = features.astype(np.float32)
    absent = (out == out[:, :1, :1]).all(axis=(1, 2))
    common_db = rng.uniform(-augmentation.gain_db, augmentation.gain_db)
    own_db = rng.normal(0.0, augmentation.calibration_db, size=(out.shape[0], 1, 1))
    gains_db = np.asarray(common_db + own_db, dtype=np.float32)
    heard = np.maximum(out + gains_db, augmentation.fill_db)
    heard = np.roll(heard, int(rng.integers(augmentation.max_shift_frames + 1)), axis=2)
    for _ in range(augmentation.n_time_masks):
        columns = _stretch(out.shape[2], augmentation.max_mask_frames, rng)
        heard[:, :, columns] = augmentation.fill_db
    for _ in range(augmentation.n_band_masks):
        bands = _stretch(out.shape[1], augmentation.max_mask_bands, rng)
        heard[:, bands] = augmentation.fill_db
    draws = rng.uniform(size=absent.shape)
    dropped = draws < augmentation.drop_probability
    if (dropped | absent).all() and not absent.all():
        dropped[np.argmax(np.where(absent, -1.0, draws))] = False
    heard[dropped] = augmentation.fill_db
    # Last, so that no gain or mask changes the fill of a missing receiver.
    heard[absent] = out[absent]
    return np.asarray(heard, dtype=np.float32)


def _stretch(length: int, longest: int, rng: np.random.Generator) -> slice:
    width = int(rng.integers(min(longest, length) + 1))
    start = int(rng.integers(length - width + 1))
    return slice(start, start + width)
