"""The mean and standard deviation of features over a data set, exactly.

Levels are summed as whole numbers of `1 / STEPS_PER_DB` dB. Whole-number addition is
associative, so batches, processes and their order cannot change a single bit of the result,
and the variance `(n * sum(x^2) - sum(x)^2) / n^2` loses nothing to cancellation.

Source: J. Demmel and H. D. Nguyen, "Parallel reproducible summation", IEEE Trans. Computers
64 (2015), whose accumulator this is, with one bin because levels share one narrow range.
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

__all__ = ["NormalizationStats", "normalize_features", "normalize_per_sample"]

STEPS_PER_DB: Final = 1 << 16
"""Half a step is 8 millionths of a dB, which is float32's own rounding at -140 dB."""

LEVEL_LIMIT_DB: Final = 1024.0
FRAMES_PER_SUM: Final = 1024
"""Squares below 2**52 cannot overflow 63 bits in so few terms."""

LARGEST_SUM: Final = 1 << 200
"""More than any data set adds up to, and still a float."""

CONSTANT_DB: Final = 1e-3
"""A band that varies by less is taken as constant: its deviation is then 1 dB."""

Table = tuple[tuple[int, ...], ...]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NormalizationStats:
    """Per receiver and band, over all samples and frames: how many, their sum, and squares.

    A channel that holds one level throughout is a receiver that was missing. Such channels
    are left out, unless the receiver was missing from every sample.
    """

    counts: tuple[int, ...]
    """Frames of each receiver, where it was present."""
    sums: Table
    """`(receivers, n_mels)`, in steps."""
    squares: Table
    """`(receivers, n_mels)`, in squared steps."""
    fills: Table
    """For each receiver, (frames where it was missing, their sum in steps)."""

    @classmethod
    def of(cls, features: Iterable[NDArray[np.floating[Any]]]) -> Self:
        """The statistics of a data set, read once.

        Args:
            features: tensors `(receivers, n_mels, n_frames)`, dB.

        Raises:
            FeatureError: when there is none, or shapes differ, or a level is not finite.
        """
        total: Self | None = None
        for tensor in features:
            one = cls._of_one(tensor)
            total = one if total is None else total.merge(one)
        if total is None:
            raise FeatureError("there are no features to take the statistics of (0 tensors)")
        return total

    @classmethod
    def _of_one(cls, tensor: NDArray[np.floating[Any]]) -> Self:
        steps = _steps(tensor)
        # No noise holds one level: a channel that does is a fill.
        absent = (steps == steps[:, :1, :1]).all(axis=(1, 2))
        n_frames = steps.shape[2]
        present = steps * ~absent[:, None, None]
        squares = _exact_sum(present * present)
        return cls(
            tuple(0 if gone else n_frames for gone in absent),
            _table(present.sum(axis=2)),
            _table(squares),
            tuple(
                (n_frames, int(row[0, 0]) * n_frames) if gone else (0, 0)
                for row, gone in zip(steps, absent, strict=True)
            ),
        )

    def merge(self, other: Self) -> Self:
        """The statistics of both data sets together; any order gives the same bits.

        Raises:
            FeatureError: when they are of tensors of different shapes.
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

    __add__ = merge

    @property
    def shape(self) -> tuple[int, int]:
        """Receivers and mel bands."""
        return len(self.sums), len(self.sums[0])

    @property
    def mean(self) -> Float32:
        """Float32 `(receivers, n_mels, 1)`, dB."""
        return self._mean_and_std[0]

    @property
    def std(self) -> Float32:
        """Float32 `(receivers, n_mels, 1)`, dB, positive; 1 where a band never varies."""
        return self._mean_and_std[1]

    @property
    def _mean_and_std(self) -> tuple[Float32, Float32]:
        return _mean_and_std(self.counts, self.sums, self.squares, self.fills)

    def to_json(self) -> str:
        """The exact sums, so that merging goes on after a round trip."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The statistics that `to_json` wrote.

        Raises:
            FeatureError: when the text is not that.
        """
        try:
            found = json.loads(text)
            stats = cls(
                tuple(found["counts"]),
                *(tuple(map(tuple, found[field.name])) for field in fields(cls)[1:]),
            )
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise FeatureError(f"normalisation statistics are JSON, not {text!r:.200}") from error
        stats._require_sums()
        return stats

    def _require_sums(self) -> None:
        """Refuse what no features add up to."""
        sizes = {len(table) for table in (self.counts, self.sums, self.squares, self.fills)}
        if len(sizes) != 1 or not self.counts:
            raise FeatureError(f"the tables of the statistics differ in length: {sorted(sizes)}")
        widths = {len(row) for row in (*self.sums, *self.squares)}
        if len(widths) != 1 or 0 in widths or {len(row) for row in self.fills} != {2}:
            raise FeatureError(f"the rows of the statistics differ in length: {sorted(widths)}")
        numbers = (
            *self.counts,
            *(n for t in (self.sums, self.squares, self.fills) for r in t for n in r),
        )
        if wrong := [n for n in numbers if type(n) is not int or abs(n) > LARGEST_SUM]:
            raise FeatureError(
                f"the statistics hold {wrong[0]!r:.50}; they are sums of whole steps"
            )
        for count, sums, squares in zip(self.counts, self.sums, self.squares, strict=True):
            # Cauchy and Schwarz: a sum's square is at most the count times the sum of squares.
            if count < 0 or any(a * a > count * b for a, b in zip(sums, squares, strict=True)):
                raise FeatureError("the statistics hold sums that no levels add up to")


def normalize_features(
    features: NDArray[np.floating[Any]], stats: NormalizationStats
) -> NDArray[np.float32]:
    """Levels as standard deviations from the data set's mean, band by band.

    Receivers stay comparable: every sample is shifted and scaled alike.

    Args:
        features: `(..., receivers, n_mels, n_frames)`, dB.
        stats: of the training set.

    Returns:
        float32, the same shape, without unit.

    Raises:
        FeatureError: when the shapes differ.
    """
    if features.ndim < 3 or features.shape[-3:-1] != stats.shape:
        raise FeatureError(
            f"features of shape {features.shape} do not fit statistics of "
            f"(receivers, n_mels) = {stats.shape}"
        )
    return ((features - stats.mean) / stats.std).astype(np.float32, copy=False)


def normalize_per_sample(features: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Each channel of each sample shifted and scaled to mean 0 and deviation 1.

    This erases the level differences between receivers, which carry the position. It is for
    comparison with models that were trained so.

    Args:
        features: `(..., receivers, n_mels, n_frames)`, dB.

    Returns:
        float32, the same shape, without unit; a constant channel becomes 0.

    Raises:
        FeatureError: when a level is not finite.
    """
    levels = _require_levels(features).astype(np.float64)
    mean = levels.mean(axis=(-2, -1), keepdims=True)
    std = levels.std(axis=(-2, -1), keepdims=True)
    scaled: NDArray[np.float64] = (levels - mean) / np.where(std < CONSTANT_DB, 1.0, std)
    return scaled.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _mean_and_std(
    counts: tuple[int, ...], sums: Table, squares: Table, fills: Table
) -> tuple[Float32, Float32]:
    shape = (len(sums), len(sums[0]), 1)
    mean, std = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for channel, n in enumerate(counts):
        n_fill, fill = fills[channel]
        for band, (total, square) in enumerate(zip(sums[channel], squares[channel], strict=True)):
            # Python's integers have no largest: nothing overflows, nothing is rounded.
            spread = math.sqrt(n * square - total * total) / (n * STEPS_PER_DB) if n else 0.0
            centre = total / n if n else fill / max(1, n_fill)
            mean[channel, band] = centre / STEPS_PER_DB
            std[channel, band] = spread if spread >= CONSTANT_DB else 1.0
    mean.flags.writeable = std.flags.writeable = False
    return mean, std


def _require_levels(features: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    if features.ndim < 3 or features.dtype.kind != "f" or 0 in features.shape:
        raise FeatureError(
            f"features are {features.dtype} of shape {features.shape}; "
            "give real levels of shape (receivers, n_mels, n_frames)"
        )
    worst = float(np.abs(features).max())
    if not worst < LEVEL_LIMIT_DB:
        raise FeatureError(f"a level of {worst} dB is no level; features lie within 1024 dB of 0")
    return features


def _steps(tensor: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    if tensor.ndim != 3:
        raise FeatureError(f"features have shape (receivers, n_mels, n_frames), not {tensor.shape}")
    levels = _require_levels(tensor).astype(np.float64)
    return np.rint(levels * STEPS_PER_DB).astype(np.int64)


def _exact_sum(squares: NDArray[np.int64]) -> NDArray[np.object_]:
    starts = np.arange(0, squares.shape[2], FRAMES_PER_SUM)
    partial: NDArray[np.object_] = np.add.reduceat(squares, starts, axis=2).astype(object)
    return np.asarray(partial.sum(axis=2), dtype=object)


def _table(values: NDArray[Any]) -> Table:
    return tuple(tuple(int(value) for value in row) for row in values)


def _added(left: Table, right: Table) -> Table:
    return tuple(
        tuple(a + b for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True)
    )
