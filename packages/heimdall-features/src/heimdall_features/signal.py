"""Recordings as the analysis reads them: checked, forward only, a piece at a time.

An array or a memory map is read in place. An iterator of blocks is held only as far back as
the next frame needs, so that a recording of hours takes no more memory than one of seconds.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from heimdall_features.config import Spectrum
from heimdall_features.errors import FeatureError

__all__ = ["Blocks", "Samples", "Source", "open_source", "require_rate"]

Samples = NDArray[np.inexact[Any]]

READ_SAMPLES = 1 << 16
"""How much of an array is handed on at once: it stays in cache."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A recording that arrives in pieces.

    Args:
        blocks: arrays `(n,)` of any lengths, in order; read once.
        n_samples: how many samples they hold together; columns are laid out from it.
    """

    blocks: Iterable[Samples]
    n_samples: int


class Source(Protocol):
    """Something that gives the samples `start` to `stop`, never going back."""

    @property
    def n_samples(self) -> int:
        """How many samples there are."""

    def read(self, start: int, stop: int) -> Samples:
        """The samples from `start` up to `stop`, float32 or complex64."""


class ArraySource:
    """An array or memory map, read in place."""

    def __init__(self, samples: Samples, spectrum: Spectrum) -> None:
        """Check the whole array's form; its values are seen when they are read."""
        self._samples = _require_form(samples, spectrum)
        self._spectrum: Spectrum = spectrum
        self.n_samples = samples.shape[0]

    def read(self, start: int, stop: int) -> Samples:
        """The samples from `start` up to `stop`, float32 or complex64."""
        return _analysed(self._samples[start:stop], self._spectrum)

    def __iter__(self) -> Iterator[Samples]:
        """The whole recording, in pieces that stay in cache."""
        for start in range(0, self.n_samples, READ_SAMPLES):
            yield self.read(start, start + READ_SAMPLES)


class BlockSource:
    """Blocks in order, held back only as far as the reader may still look."""

    def __init__(self, blocks: Blocks, spectrum: Spectrum) -> None:
        """Check the declared length; each block is checked as it comes.

        Raises:
            FeatureError: when the declared length is no positive whole number.
        """
        if not isinstance(blocks.n_samples, int) or blocks.n_samples < 1:
            raise FeatureError(f"n_samples is {blocks.n_samples!r}; declare the blocks' total")
        self.n_samples = blocks.n_samples
        self._spectrum: Spectrum = spectrum
        self._blocks = iter(blocks.blocks)
        self._held: list[Samples] = []
        self._start = 0
        self._stop = 0

    def read(self, start: int, stop: int) -> Samples:
        """The samples from `start` up to `stop`, float32 or complex64.

        Raises:
            FeatureError: when the blocks hold another number of samples than declared.
        """
        while self._stop < stop:
            self._pull()
        while self._start + self._held[0].shape[0] <= start:
            self._start += self._held.pop(0).shape[0]
        if len(self._held) > 1 and self._start + self._held[0].shape[0] < stop:
            self._held = [np.concatenate([self._held[0][start - self._start :], *self._held[1:]])]
            self._start = start
        if stop == self.n_samples:
            self._require_end()
        return self._held[0][start - self._start : stop - self._start]

    def __iter__(self) -> Iterator[Samples]:
        """The whole recording, block by block."""
        while self._stop < self.n_samples:
            self._held.clear()
            self._pull()
            yield self._held[-1]
        self._require_end()

    def _pull(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            raise FeatureError(
                f"the blocks end after {self._stop} samples; n_samples={self.n_samples} declared"
            )
        samples = _analysed(_require_form(block, self._spectrum), self._spectrum)
        if samples.shape[0]:
            self._held.append(samples)
            self._stop += samples.shape[0]
        if self._stop > self.n_samples:
            raise FeatureError(
                f"the blocks hold at least {self._stop} samples; "
                f"n_samples={self.n_samples} declared"
            )

    def _require_end(self) -> None:
        for block in self._blocks:
            if len(block):
                raise FeatureError(
                    f"the blocks hold more than the n_samples={self.n_samples} declared"
                )


def open_source(samples: Samples | Blocks, spectrum: Spectrum) -> ArraySource | BlockSource:
    """A recording, checked, ready to be read forward.

    Raises:
        FeatureError: when it is not the kind of signal that `spectrum` analyses.
    """
    if isinstance(samples, Blocks):
        return BlockSource(samples, spectrum)
    return ArraySource(samples, spectrum)


def require_rate(rate_hz: float) -> float:
    """The rate, if it is one.

    Raises:
        FeatureError: when it is not a positive, finite number.
    """
    is_number = isinstance(rate_hz, int | float | np.number) and not isinstance(rate_hz, bool)
    if not is_number or not math.isfinite(rate_hz) or rate_hz <= 0:
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
    wanted = "f" if spectrum == "one-sided" else "c"
    if samples.dtype.kind != wanted:
        raise FeatureError(_form_message(samples.dtype, spectrum))
    return samples


def _form_message(dtype: np.dtype[Any], spectrum: Spectrum) -> str:
    if dtype.kind in "iu":
        return f"samples are {dtype}; scale integers so that full scale is 1, as in iq / 32768"
    if spectrum == "one-sided":
        return f"a one-sided spectrum is of real floats, not {dtype}; use spectrum='two-sided'"
    return f"a {spectrum} spectrum is of complex IQ, not {dtype}; use spectrum='one-sided'"


def _analysed(samples: Samples, spectrum: Spectrum) -> Samples:
    if spectrum == "envelope":
        return np.abs(samples).astype(np.float32, copy=False)
    wanted = np.complex64 if spectrum == "two-sided" else np.float32
    with np.errstate(over="ignore"):  # what overflows is refused once its power is infinite
        return samples.astype(wanted, copy=False)
