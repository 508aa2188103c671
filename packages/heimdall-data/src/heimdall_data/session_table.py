"""Usable sessions as a sequence, however many there are.

Few sessions are held in memory as they are. Of many, only columns are (see `session_columns`),
and a session's measurements are read when it is asked for: a million sessions open in seconds,
and a DataLoader's worker reads its own batches.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
import numpy.typing as npt

from heimdall_data.errors import CatalogueError
from heimdall_data.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from heimdall_data.session_columns import SessionColumns

__all__ = ["SessionReadings", "SessionTable"]

READ_AT_ONCE = 512


class SessionReadings(Protocol):
    """Where the sessions of a table are read from; a copy of it works in another process."""

    def read(self, ids: Sequence[str]) -> list[Session]:
        """The sessions with these ids, in any order; those that are gone are left out."""


class SessionTable(Sequence[Session]):
    """Sessions in the order of their starts; equal to a list of the same sessions."""

    def __init__(
        self,
        columns: SessionColumns,
        readings: SessionReadings,
        loaded: tuple[Session, ...] | None = None,
    ) -> None:
        """Describe sessions.

        Args:
            columns: what is known of each.
            readings: where the rest is read.
            loaded: all of them, if there are few; then nothing is read later.
        """
        self.columns = columns
        self._readings = readings
        self._loaded = loaded

    def __len__(self) -> int:
        return self.columns.ids.size

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> SessionTable: ...
    def __getitem__(self, index: int | slice) -> Session | SessionTable:
        """One session, or a table of some.

        Raises:
            IndexError: there is no such session.
            CatalogueError: it cannot be read, or is gone since the table was made.
        """
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"session {index} of {len(self)}")
        if self._loaded is not None:
            return self._loaded[index]
        return self.read([index])[0]

    def __iter__(self) -> Iterator[Session]:
        """Every session, read some hundreds at a time."""
        for first in range(0, len(self), READ_AT_ONCE):
            yield from self.read(range(first, min(first + READ_AT_ONCE, len(self))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<SessionTable of {len(self)} sessions>"

    def read(self, indices: Iterable[int]) -> list[Session]:
        """The sessions at `indices`, in that order, in one query.

        Raises:
            CatalogueError: they cannot be read, or one is gone since the table was made.
        """
        if self._loaded is not None:
            return [self._loaded[index] for index in indices]
        ids = [self.session_id(index) for index in indices]
        found = {session.id: session for session in self._readings.read(ids)}
        if gone := [identity for identity in ids if identity not in found]:
            raise CatalogueError(
                f"session {gone[0]} is no usable session any more, which it was when the run "
                f"began ({len(gone)} such here); start again to train on what there is now"
            )
        return [found[identity] for identity in ids]

    def session_id(self, index: int) -> str:
        """The id of a session, without reading the rest of it."""
        return str(uuid.UUID(bytes=self.columns.ids[index].tobytes()))

    def take(self, indices: npt.NDArray[np.intp]) -> SessionTable:
        """A table of the sessions at `indices`, in that order."""
        loaded = self._loaded
        if loaded is not None:
            loaded = tuple(loaded[index] for index in indices.tolist())
        return SessionTable(self.columns.take(indices), self._readings, loaded)

    def without(self, ids: Collection[str]) -> SessionTable:
        """A table of the sessions whose ids are not among `ids`."""
        if not ids:
            return self
        left_out = {uuid.UUID(identity).bytes for identity in ids}
        kept = [i for i, own in enumerate(self.columns.ids.tolist()) if own not in left_out]
        return self.take(np.array(kept, np.intp))

    @property
    def positions_deg(self) -> npt.NDArray[np.float64]:
        """`(n, 2)`: latitude and longitude of each session's source, in degrees."""
        places = np.array([source.position_deg for source in self.columns.sources], np.float64)
        return places.reshape(-1, 2)[self.columns.source]

    def n_sessions_of_stations(self) -> dict[str, int]:
        """In how many sessions each station measured, by name; those in none are left out."""
        heard = self.columns.heard
        names = [station.name for station in self.columns.stations]
        counts = (
            int(np.count_nonzero(heard[:, number // 8] & (0x80 >> number % 8)))
            for number in range(len(names))
        )
        return {name: count for name, count in zip(names, counts, strict=True) if count}
