"""Start of each frame of a recording, and its column of the tensor."""

from collections.abc import Iterator
from dataclasses import dataclass

from heimdall_features.errors import FeatureError

__all__ = ["FramePlan"]


@dataclass(frozen=True, slots=True)
class FramePlan:
    """A frame every hop, and one last frame that ends where the recording ends.

    The frames are shared out over `n_columns` in order, evenly to within one. A recording too
    short for that many hops has one frame to a column, closer together: the first starts and
    the last ends with the recording.
    """

    n_samples: int
    n_fft: int
    hop_length: int
    n_columns: int | None
    """None: a column per hop, and what is left at the end (less than a hop) is not analysed."""

    def __post_init__(self) -> None:
        """Refuse a recording without a whole frame.

        Raises:
            FeatureError: says how many samples there are and how many it takes.
        """
        if self.n_columns is not None and self.n_columns < 1:
            raise FeatureError(f"n_frames is {self.n_columns!r}; ask for at least 1 column")
        if self.n_samples < self.n_fft:
            raise FeatureError(
                f"{self.n_samples} samples are less than one frame of n_fft={self.n_fft}; "
                "record for longer or choose a smaller n_fft"
            )

    @property
    def n_regular(self) -> int:
        """Frames that start at a multiple of the hop."""
        return 1 + self.last // self.hop_length

    @property
    def n_frames(self) -> int:
        """All frames."""
        if self.n_columns is None:
            return self.n_regular
        return max(self.n_columns, self.n_regular + (self.last % self.hop_length > 0))

    @property
    def last(self) -> int:
        """Start of the frame that ends with the recording."""
        return self.n_samples - self.n_fft

    def runs(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Frames `first` to `stop` as runs a hop apart: (first sample, how many frames)."""
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
        """The first frame of a column (of the one after the last column: all frames)."""
        return column * self.n_frames // (self.n_columns or self.n_frames)

    def columns(self, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Columns of the frames `first` to `stop`: (column, first frame, stop)."""
        while first < stop:
            column = ((first + 1) * (self.n_columns or self.n_frames) - 1) // self.n_frames
            column_stop = min(stop, self.column_start(column + 1))
            yield column, first, column_stop
            first = column_stop
