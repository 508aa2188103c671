"""Exact mean and standard deviation of the features of a data set.

Levels are summed as integer multiples of `1 / STEPS_PER_DB` dB. Integer addition is associative,
so the order of batches and processes cannot change a bit of the result, and the variance
`(n * sum(x^2) - sum(x)^2) / n^2` has no cancellation error.

Source: J. Demmel and H. D. Nguyen, "Parallel reproducible summation", IEEE Trans. Computers 64
(2015). One bin of their accumulator is enough here, because all levels are in a narrow range.
"""

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from heimdall_features.errors import FeatureError
from heimdall_features.outside_json import parsed_json

STEPS_PER_DB: Final = 1 << 16
"""Half a step is 8 millionths of a dB, the rounding error of float32 at -140 dB."""
LEVEL_LIMIT_DB: Final = 1024.0
FRAMES_PER_SUM: Final = 1024
"""So few squares below 2**52 cannot overflow 63 bits."""
LARGEST_SUM: Final = 1 << 200
"""Larger than the sums of any data set, but still a float."""
CONSTANT_DB: Final = 1e-3
"""A band with a smaller deviation counts as constant and gets a deviation of 1 dB."""

Table = tuple[tuple[int, ...], ...]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NormalizationStats:
    """Number of frames and sums of levels and squares, per receiver and band.

    A channel with a single level throughout belongs to a missing receiver. Such channels are
    left out, unless the receiver is missing from every sample.
    """

    counts: tuple[int, ...]
    """Frames of each receiver in samples where it was present."""
    sums: Table
    """`(receivers, n_mels)`, in steps."""
    squares: Table
    """`(receivers, n_mels)`, in squared steps."""
    fills: Table
    """For each receiver, (frames in samples where it was missing, their sum in steps)."""

    @classmethod
    def of(cls, features: Iterable[NDArray[np.floating[Any]]]) -> Self:
        """Return the statistics of tensors `(receivers, n_mels, n_frames)` in dB, read once.

        Raises:
            FeatureError: There are none, their shapes differ, or a level is not finite.
        """
        total: Self | None = None
        for tensor in features:
            one = cls._of_one(tensor)
            total = one if total is None else total.merge(one)
        if total is None:
            raise FeatureError("there are no features to compute statistics of (0 tensors)")
        return total

    @classmethod
    def _of_one(cls, tensor: NDArray[np.floating[Any]]) -> Self:
        levels = _require_levels(tensor).astype(np.float64)
        steps = np.rint(levels * STEPS_PER_DB).astype(np.int64)
        # A received channel never has a single level: one that does was filled.
        absent = (steps == steps[:, :1, :1]).all(axis=(1, 2))
        n_frames = steps.shape[2]
        present = steps * ~absent[:, None, None]
        starts = np.arange(0, n_frames, FRAMES_PER_SUM)
        partial = np.add.reduceat(present * present, starts, axis=2).astype(object)
        return cls(
            tuple(0 if gone else n_frames for gone in absent),
            _table(present.sum(axis=2)),
            _table(partial.sum(axis=2)),
            tuple(
                (n_frames, int(row[0, 0]) * n_frames) if gone else (0, 0)
                for row, gone in zip(steps, absent, strict=True)
            ),
        )

    def merge(self, other: Self) -> Self:
        """Return the statistics of both data sets; any order of merging gives the same bits.

        Raises:
            FeatureError: The tensors had different shapes.
        """
        if self.shape != other.shape:
            raise FeatureError(
                f"statistics of shape {self.shape} and {other.shape} are of different features"
            )
        return type(self)(
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            _added(self.sums, other.sums),
            _added(self.squares, other.squares),
            _added(self.fills, other.fills),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Receivers and mel bands."""
        return len(self.sums), len(self.sums[0])

    @property
    def mean(self) -> Float32:
        """Mean level in dB: float32 `(receivers, n_mels, 1)`."""
        return _mean_and_std(self)[0]

    @property
    def std(self) -> Float32:
        """Positive deviation in dB, 1 for a constant band: float32 `(receivers, n_mels, 1)`."""
        return _mean_and_std(self)[1]

    def to_json(self) -> str:
        """Return the exact sums as JSON, which can be merged further after `from_json`."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the statistics that `to_json` wrote.

        Raises:
            FeatureError: The text is not that JSON, or no levels have these sums.
        """
        try:
            found = parsed_json(text)
            stats = cls(
                tuple(found["counts"]),
                *(tuple(map(tuple, found[field.name])) for field in fields(cls)[1:]),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise FeatureError(f"normalisation statistics are JSON, not {text!r:.200}") from error
        stats._require_sums()
        return stats

    def _require_sums(self) -> None:
        lengths = sorted({len(t) for t in (self.counts, self.sums, self.squares, self.fills)})
        widths = sorted({len(row) for row in (*self.sums, *self.squares)})
        if len(lengths) != 1 or len(widths) != 1 or 0 in widths or {*map(len, self.fills)} != {2}:
            raise FeatureError(
                f"the statistics' tables differ in size: {lengths} receivers, {widths} bands"
            )
        for row in (self.counts, *self.sums, *self.squares, *self.fills):
            if wrong := [n for n in row if type(n) is not int or abs(n) > LARGEST_SUM]:
                raise FeatureError(f"the statistics hold {wrong[0]!r:.50} instead of a whole sum")
        for count, sums, squares in zip(self.counts, self.sums, self.squares, strict=True):
            # Cauchy-Schwarz: a squared sum is at most the count times the sum of squares.
            if count < 0 or any(a * a > count * b for a, b in zip(sums, squares, strict=True)):
                raise FeatureError(f"no {count} levels have the sums {sums!s:.50}")


def normalize_features(
    features: NDArray[np.floating[Any]], stats: NormalizationStats
) -> NDArray[np.float32]:
    """Return levels in standard deviations from the mean of the training set, per band.

    Every sample is shifted and scaled alike, so receivers stay comparable. Shapes:
    `(..., receivers, n_mels, n_frames)` in dB give float32 of the same shape, without unit.

    Raises:
        FeatureError: The shapes differ.
    """
    if features.ndim < 3 or features.shape[-3:-1] != stats.shape:
        raise FeatureError(
            f"features of shape {features.shape} do not fit statistics of "
            f"(receivers, n_mels) = {stats.shape}"
        )
    return ((features - stats.mean) / stats.std).astype(np.float32, copy=False)


def normalize_per_sample(features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return each channel of each sample with mean 0 and deviation 1; a constant one is 0.

    This removes the level differences between receivers, which depend on the position. It is for
    comparison with models that were trained this way. Shapes: `(..., receivers, n_mels,
    n_frames)` in dB give float32 of the same shape, without unit.

    Raises:
        FeatureError: A level is not finite.
    """
    levels = _require_levels(features, batched=True).astype(np.float64)
    mean = levels.mean(axis=(-2, -1), keepdims=True)
    std = levels.std(axis=(-2, -1), keepdims=True)
    scaled: NDArray[np.float64] = (levels - mean) / np.where(std < CONSTANT_DB, 1.0, std)
    return scaled.astype(np.float32)


def require_form(features: NDArray[Any], *, batched: bool = False) -> None:
    """Raise a `FeatureError` unless features are real and of three (or more) non-empty axes."""
    has_axes = features.ndim >= 3 if batched else features.ndim == 3
    if not has_axes or features.dtype.kind != "f" or 0 in features.shape:
        raise FeatureError(
            f"features are {features.dtype} of shape {features.shape}; "
            "give real levels of shape (receivers, n_mels, n_frames)"
        )


@functools.lru_cache(maxsize=16)
def _mean_and_std(stats: NormalizationStats) -> tuple[Float32, Float32]:
    mean, std = np.empty((2, *stats.shape, 1), np.float32)
    for channel, n in enumerate(stats.counts):
        n_fill, fill = stats.fills[channel]
        rows = zip(stats.sums[channel], stats.squares[channel], strict=True)
        for band, (total, square) in enumerate(rows):
            # Python's integers are exact and do not overflow.
            spread = math.sqrt(n * square - total * total) / (n * STEPS_PER_DB) if n else 0.0
            centre = total / n if n else fill / max(1, n_fill)
            mean[channel, band] = centre / STEPS_PER_DB
            std[channel, band] = spread if spread >= CONSTANT_DB else 1.0
    mean.flags.writeable = std.flags.writeable = False
    return mean, std


def _require_levels(
    features: NDArray[np.floating[Any]], *, batched: bool = False
) -> NDArray[np.floating[Any]]:
    require_form(features, batched=batched)
    worst = float(np.abs(features).max())
    if not worst < LEVEL_LIMIT_DB:
        raise FeatureError(f"a level of {worst} dB is invalid; features are within 1024 dB of 0")
    return features


def _table(values: NDArray[Any]) -> Table:
    return tuple(tuple(int(value) for value in row) for row in values)


def _added(one: Table, other: Table) -> Table:
    # Python's integers, because sums may exceed 63 bits.
    return _table(np.array(one, object) + np.array(other, object))
