"""Cells of the plane, evenly spaced over the places of transmitters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Grid:
    """A rectangle of equal cells; plane units, east and north."""

    low: tuple[float, float]
    """The south-western corner."""
    size: tuple[float, float]
    """Size of one cell."""
    counts: tuple[int, int]

    @classmethod
    def covering(cls, places: NDArray[np.float64], counts: tuple[int, int]) -> Grid:
        """So many cells over the bounding box of places `(n, 2)`."""
        low, high = places.min(axis=0), places.max(axis=0)
        size = np.maximum(high - low, 1e-6) / counts
        return cls((float(low[0]), float(low[1])), (float(size[0]), float(size[1])), counts)

    @classmethod
    def of_squares(cls, places: NDArray[np.float64], count: int) -> Grid:
        """About square cells over the bounding box of places, `count` along the longer side."""
        across = np.maximum(np.ptp(places, axis=0), 1e-6)
        east, north = np.maximum(np.ceil(across / across.max() * count - 1e-9), 1)
        return cls.covering(places, (int(east), int(north)))

    @property
    def cells(self) -> NDArray[np.float64]:
        """The cells' middles, `(cells, 2)`, north varying fastest."""
        axes = [
            low + size * (np.arange(count) + 0.5)
            for low, size, count in zip(self.low, self.size, self.counts, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)

    def cell_of(self, places: NDArray[np.float64]) -> NDArray[np.intp]:
        """The cell of each place `(n, 2)`, or the nearest cell to a place beyond the edge."""
        steps = np.floor((places - np.array(self.low)) / np.array(self.size)).astype(np.intp)
        east, north = np.clip(steps, 0, np.array(self.counts) - 1).T
        return np.asarray(east * self.counts[1] + north)

    def blocks(self, every: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Cells in blocks of `every` a side: the blocks' mean places, and each cell's block."""
        rows, columns = (np.arange(count) // every for count in self.counts)
        of_cell = (rows[:, None] * (columns[-1] + 1) + columns).reshape(-1)
        totals = [np.bincount(of_cell, weights=axis) for axis in self.cells.T]
        return np.stack(totals, axis=1) / np.bincount(of_cell)[:, None], of_cell
