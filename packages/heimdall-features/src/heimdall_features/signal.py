"""Recordings as the analysis reads them: checked, forward only, a piece at a time.

An array or a memory map is read in place. An iterator of blocks is held only as far back as
the next frame needs, so that a recording of hours takes no more memory than one of seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import Spectrum
from heimdall_features.errors import FeatureError

__all__ = ["BlockSource", "Blocks", "Samples", "Source", "open_source", "require_rate"]

LARGEST_RATE_HZ = 1e15
"""No receiver is faster; an integer may be larger than any float."""

Samples = NDArray[np.inexact[Any]]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A recording that arrives in pieces."""

    blocks: Iterable[Samples]
    """Arrays `(n,)` of any lengths, in order; read once."""
    n_samples: int
    """Number of samples in all; the columns are laid out from it."""


class Source(Protocol):
    """Something that gives samples from `start` to `stop`; `start` never goes back."""

    n_samples: int

    def read(self, start: int, stop: int) -> Samples:
        """The samples from `start` up to `stop`: float32 or complex64 `(stop - start,)`."""


class ArraySource:
    """An array or memory map, read in place."""

    def __init__(self, samples: Samples) -> None:
        """Read `(n_samples,)` as float32 or complex64."""
        self._samples = samples
        self.n_samples = samples.shape[0]

    def read(self, start: int, stop: int) -> Samples:
        """The samples from `start` up to `stop`: float32 or complex64 `(stop - start,)`."""
        return _single_precision(self._samples[start:stop])


class BlockSource:
    """Blocks in order, held back only as far as the reader may still look."""

    def __init__(self, blocks: Blocks) -> None:
        """Read blocks of float32 or complex64.

        Raises:
            FeatureError: when the declared length is no positive whole number.
        """
        if isinstance(blocks.n_samples, bool) or not isinstance(blocks.n_samples, int):
            raise FeatureError(f"n_samples is {blocks.n_samples!r}; declare the blocks' total")
        self.n_samples = blocks.n_samples
        self._blocks = iter(blocks.blocks)
        self._held: Samples = np.empty(0, np.float32)
        self._start = 0

    def read(self, start: int, stop: int) -> Samples:
        """The samples from `start` up to `stop`: float32 or complex64 `(stop - start,)`.

        Raises:
            FeatureError: when the blocks hold another number of samples than declared.
        """
        # What lies before `start` is never asked for again, and is dropped on the next pull.
        if stop > self._stop:
            self._pull(start, stop)
        if stop == self.n_samples:
            self._require_end()
        return self._held[start - self._start : stop - self._start]

    @property
    def _stop(self) -> int:
        return self._start + len(self._held)

    def _pull(self, start: int, stop: int) -> None:
        pieces, reached = [], self._stop
        if self._held.shape[0]:
            pieces.append(self._held[start - self._start :])
        while reached < stop:
            block = next(self._blocks, None)
            if block is None:
                raise FeatureError(
                    f"the blocks end after {reached} samples; n_samples={self.n_samples} declared"
                )
            reached += block.shape[0]
            pieces.append(_single_precision(block))
        self._held = np.concatenate(pieces)
        self._start = start

    def _require_end(self) -> None:
        rest = sum(block.shape[0] for block in self._blocks)
        if rest or self._stop > self.n_samples:
            raise FeatureError(
                f"the blocks hold {self._stop + rest} samples; n_samples={self.n_samples} declared"
            )


def open_source(samples: Samples | Blocks, spectrum: Spectrum) -> Source:
    """A recording, checked, ready to be read forward.

    Raises:
        FeatureError: when it is not the kind of signal that `spectrum` analyses.
    """
    if isinstance(samples, Blocks):
        # A generator: blocks are checked as they come, not gathered.
        checked = (_require_form(block, spectrum) for block in samples.blocks)
        return BlockSource(Blocks(checked, samples.n_samples))
    return ArraySource(_require_form(samples, spectrum))


def require_rate(rate_hz: float) -> float:
    """The rate, if it is one.

    Raises:
        FeatureError: when it is not a positive, finite number.
    """
    is_number = isinstance(rate_hz, int | float | np.integer | np.floating)
    if not is_number or isinstance(rate_hz, bool) or not 0 < rate_hz < LARGEST_RATE_HZ:
        raise FeatureError(f"the sample rate is {rate_hz!r}; it must be a positive number of Hz")
    return float(rate_hz)


def _require_form(samples: Samples, spectrum: Spectrum) -> Samples:
    if not isinstance(samples, np.ndarray):
        raise FeatureError(f"a recording is a NumPy array or Blocks, not {type(samples).__name__}")
    if samples.ndim != 1:
        raise FeatureError(
            f"a recording has shape (n_samples,), not {samples.shape}; "
            "make I and Q one complex array: i + 1j * q"
        )
    if samples.dtype.kind != ("f" if spectrum == "one-sided" else "c"):
        raise FeatureError(_form_message(samples.dtype, spectrum))
    return samples


def _form_message(dtype: np.dtype[Any], spectrum: Spectrum) -> str:
    if dtype.kind in "iu":
        return f"samples are {dtype}; scale integers so that full scale is 1, as in iq / 32768"
    if spectrum == "one-sided":
        return f"a one-sided spectrum is of real floats, not {dtype}; use spectrum='two-sided'"
    return f"a {spectrum} spectrum is of complex IQ, not {dtype}; use spectrum='one-sided'"


def _single_precision(samples: Samples) -> Samples:
    wanted = np.complex64 if samples.dtype.kind == "c" else np.float32
    return np.ascontiguousarray(samples, wanted)
