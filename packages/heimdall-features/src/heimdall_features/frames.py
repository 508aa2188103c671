"""Start of each frame of a recording, and its column in the tensor."""

from collections.abc import Iterator
from dataclasses import dataclass

from heimdall_features.errors import FeatureError


@dataclass(frozen=True, slots=True)
class FramePlan:
    """One frame per hop, and a last frame that ends with the recording.

    The frames are distributed over `n_columns` in order, evenly to within one. A recording with
    fewer frames than columns has one frame per column instead, closer together than a hop: the
    first starts and the last ends with the recording. Raises a `FeatureError` if the recording
    is shorter than a frame.
    """

    n_samples: int
    n_fft: int
    hop_length: int
    n_columns: int | None
    """None: one column per hop; a rest shorter than a hop is not analysed."""

    def __post_init__(self) -> None:
        if self.n_columns is not None and self.n_columns < 1:
            raise FeatureError(f"n_frames is {self.n_columns!r}; ask for at least 1 column")
        if self.n_samples < self.n_fft:
            raise FeatureError(
                f"{self.n_samples} samples are less than one frame of n_fft={self.n_fft}; "
                "record for longer or choose a smaller n_fft"
            )

    @property
    def n_regular(self) -> int:
        """Number of frames that start at a multiple of the hop."""
        return 1 + self.last // self.hop_length

    @property
    def n_frames(self) -> int:
        """Number of all frames."""
        if self.n_columns is None:
            return self.n_regular
        return max(self.n_columns, self.n_regular + (self.last % self.hop_length > 0))

    @property
    def last(self) -> int:
        """Start of the frame that ends with the recording."""
        return self.n_samples - self.n_fft

    def runs(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield frames `first` to `stop` as runs a hop apart: (first sample, number of frames)."""
        if self.n_frames == self.n_columns:
            gaps = max(1, self.n_frames - 1)
            yield from ((frame * self.last // gaps, 1) for frame in range(first, stop))
            return
        regular_stop = min(stop, self.n_regular)
        if first < regular_stop:
            yield first * self.hop_length, regular_stop - first
        if stop > self.n_regular:
            yield self.last, 1

    def column_start(self, column: int) -> int:
        """First frame of a column; for `n_columns`, the number of frames."""
        return column * self.n_frames // (self.n_columns or self.n_frames)

    def columns(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield the columns of frames `first` to `stop`: (column, first frame, stop)."""
        while first < stop:
            column = ((first + 1) * (self.n_columns or self.n_frames) - 1) // self.n_frames
            column_stop = min(stop, self.column_start(column + 1))
            yield column, first, column_stop
            first = column_stop
