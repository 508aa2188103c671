"""Recordings, checked and read forward in pieces.

An array or a memory map is read in place. Blocks are kept in memory only as far back as the
next frame reaches, so a recording of hours takes no more memory than one of seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import Spectrum
from heimdall_features.errors import FeatureError

LARGEST_RATE_HZ = 1e15
"""Above the rate of any receiver; larger integers may not fit into a float."""
LARGEST_SAMPLE = 8.0
"""Largest I or Q of a recording with full scale 1, with a margin: a clipped recording reaches 3.1
after rotation and `resample`'s filter, and noise that was scaled to a variance of 1 reaches 6.
Integers of a converter that were not scaled exceed it, except those of three bits."""

Samples = NDArray[np.inexact[Any]]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A recording that arrives in pieces."""

    blocks: Iterable[Samples]
    """Arrays `(n,)` of any lengths, in order; read once."""
    n_samples: int
    """Total number of samples; the columns are computed from it."""


class ArraySource:
    """An array `(n_samples,)` or memory map, read in place."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.n_samples = samples.shape[0]

    def read(self, start: int, stop: int) -> Samples:
        """Return `(stop - start,)` samples as float32 or complex64.

        Raises:
            FeatureError: They are not scaled to full scale 1.
        """
        return require_full_scale(_single_precision(self._samples[start:stop]))


class BlockSource:
    """Blocks in order, of which only the part that may still be read is kept."""

    def __init__(self, blocks: Blocks) -> None:
        if isinstance(blocks.n_samples, bool) or not isinstance(blocks.n_samples, int):
            raise FeatureError(f"n_samples is {blocks.n_samples!r}; give the blocks' total length")
        self.n_samples = blocks.n_samples
        self._blocks = iter(blocks.blocks)
        self._held: Samples = np.empty(0, np.float32)
        self._start = 0

    def read(self, start: int, stop: int) -> Samples:
        """Return `(stop - start,)` samples as float32 or complex64; `start` must never decrease.

        Raises:
            FeatureError: The blocks contain more or fewer samples than declared.
        """
        if stop > self._start + len(self._held):
            self._pull(start, stop)
        if stop == self.n_samples:
            held_stop = self._start + len(self._held)
            total = held_stop + sum(block.shape[0] for block in self._blocks)
            if total > self.n_samples:
                raise FeatureError(f"the blocks hold {total} samples, not n_samples={stop}")
        return self._held[start - self._start : stop - self._start]

    def _pull(self, start: int, stop: int) -> None:
        """Read blocks up to `stop` and drop the samples before `start`."""
        reached = self._start + len(self._held)
        pieces = [self._held[start - self._start :]] if len(self._held) else []
        while reached < stop:
            block = next(self._blocks, None)
            if block is None:
                raise FeatureError(
                    f"the blocks end after {reached} samples, not n_samples={self.n_samples}"
                )
            reached += block.shape[0]
            pieces.append(_single_precision(block))
        self._held = np.concatenate(pieces)
        self._start = start


Source = ArraySource | BlockSource


def open_source(samples: Samples | Blocks, spectrum: Spectrum) -> Source:
    """Return a checked recording that can be read forward.

    Raises:
        FeatureError: The recording is not a signal that `spectrum` can analyse.
    """
    if isinstance(samples, Blocks):
        # A generator, so that blocks are checked as they arrive and not collected first.
        checked = (
            require_full_scale(_single_precision(_require_form(block, spectrum)))
            for block in samples.blocks
        )
        return BlockSource(Blocks(checked, samples.n_samples))
    return ArraySource(_require_form(samples, spectrum))


def require_rate(rate_hz: float) -> float:
    """Return the rate; raise a `FeatureError` unless it is a positive, finite number."""
    is_number = isinstance(rate_hz, int | float | np.integer | np.floating)
    if not is_number or isinstance(rate_hz, bool) or not 0 < rate_hz < LARGEST_RATE_HZ:
        raise FeatureError(f"the sample rate is {rate_hz!r}; it must be a positive number of Hz")
    return float(rate_hz)


def require_full_scale(samples: Samples) -> Samples:
    """Return contiguous samples, whose full scale must be 1; NaN and infinity pass.

    Raises:
        FeatureError: A sample is larger than any of a recording with full scale 1.
    """
    parts = samples.view(samples.real.dtype)
    # Infinite samples are refused with NaN, by those who need finite ones.
    peak = max(parts.max(initial=0), -parts.min(initial=0))
    if LARGEST_SAMPLE < peak < np.inf:
        raise FeatureError(
            f"samples reach {peak:.6g}, and full scale is 1; divide by the largest value of the "
            "receiver's converter, as in iq / 32768 for 16 bits"
        )
    return samples


def _require_form(samples: Samples, spectrum: Spectrum) -> Samples:
    if isinstance(samples, np.ndarray) and samples.ndim != 1:
        raise FeatureError(
            f"a recording has shape (n_samples,), not {samples.shape}; "
            "combine I and Q into a complex array: i + 1j * q"
        )
    return require_type(samples, spectrum)


def require_type(samples: Samples, spectrum: Spectrum) -> Samples:
    """Return samples of any shape; raise a `FeatureError` unless `spectrum` takes their type."""
    if not isinstance(samples, np.ndarray):
        raise FeatureError(f"a recording is a NumPy array or Blocks, not {type(samples).__name__}")
    if samples.dtype.kind in "iu":
        raise FeatureError(
            f"samples are {samples.dtype}; scale integers to full scale 1, as in iq / 32768"
        )
    wanted = "real floats" if spectrum == "one-sided" else "complex IQ"
    if samples.dtype.kind != ("f" if spectrum == "one-sided" else "c"):
        combine = "; combine I and Q: i + 1j * q" if samples.dtype.kind == "f" else ""
        raise FeatureError(f"a {spectrum} spectrum takes {wanted}, not {samples.dtype}{combine}")
    return samples


def _single_precision(samples: Samples) -> Samples:
    wanted = np.complex64 if samples.dtype.kind == "c" else np.float32
    return np.ascontiguousarray(samples, wanted)
