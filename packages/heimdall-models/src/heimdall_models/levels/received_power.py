"""Levels of the signal at each receiver, from features in decibels.

The power of all bands, averaged over the frames, less the receiver's noise. The noise is read in
the outermost bands, which hold no signal. Their share of the noise depends on the filter bank
alone: it is learned from the recording with the faintest signal, whose power is in the outermost
bands more than any other's. A receiver whose features are all one value, the fill of the feature
extractor, was down.

Levels are in dB against any reference that is the same for all sessions of a receiver; the
transmitters' powers are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from heimdall_models.region import Region

OUTER_SHARE = 3 / 32
"""Share of the bands on either side that hold noise alone: at 48 kHz, 15 kHz off the carrier."""
NOISE_QUANTILE = 0.25
"""Quantile of the outermost bands' power over a receiver's sessions; stray signals are rarer."""
LEAST_SESSIONS = 3
"""Training sessions; fewer positions have no spread in both directions."""
FAINTEST = 0.03
"""Least signal over noise that is reported, -15 dB: less cannot be measured."""
SILENT_SPREAD_DB = 0.01
"""Features that vary less than this over all bands and frames are a fill: noise varies more."""


class ReceivedPower(NamedTuple):
    """Powers of full scale, `(n, receivers)` each; zero where a receiver was down."""

    total: NDArray[np.float64]
    """In all bands."""
    outer: NDArray[np.float64]
    """In the outermost bands."""
    present: NDArray[np.bool_]
    """True where a receiver was not down."""

    @classmethod
    def of(cls, features_db: NDArray[np.floating]) -> ReceivedPower:
        """Powers of features `(n, receivers, bands, frames)` in dB of full scale."""
        features = np.asarray(features_db, dtype=np.float64)
        if features.ndim != 4 or 0 in features.shape:
            raise ModelError(
                f"features must be (n, receivers, bands, frames) in dB; got {features.shape}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            spread = features.max(axis=(2, 3)) - features.min(axis=(2, 3))
            bands = np.power(10.0, features / 10).mean(axis=3)
        # A value that is not finite counts as not heard; training rejects its session.
        present = (spread > SILENT_SPREAD_DB) & np.isfinite(spread) & np.isfinite(bands.sum(axis=2))
        bands = np.where(present[:, :, None], bands, 0.0)
        n_outer = max(round(OUTER_SHARE * features.shape[2]), 1)
        outer = bands[:, :, :n_outer].sum(axis=2) + bands[:, :, -n_outer:].sum(axis=2)
        return cls(bands.sum(axis=2), outer, present)

    @classmethod
    def joined(cls, parts: Iterable[ReceivedPower]) -> ReceivedPower:
        """Sessions one after another."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def noise(self) -> NDArray[np.float64]:
        """Noise power of each receiver, `(receivers,)`; zero of one that was never up."""
        heard = self.present & (self.outer > 0)
        if not heard.any():
            return np.zeros(self.total.shape[1])
        share = float((self.total[heard] / self.outer[heard]).min())
        outer = [
            np.quantile(power[up], NOISE_QUANTILE) if up.any() else 0.0
            for power, up in zip(self.outer.T, heard.T, strict=True)
        ]
        return share * np.array(outer)

    def signal_db(self, noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """Level in dB of full scale without noise, `(n, receivers)`; zero where one was down."""
        power = np.maximum(self.total - noise, FAINTEST * noise)
        return 10 * np.log10(np.where(self.present & (power > 0), power, 1.0))


@dataclass(frozen=True, slots=True)
class TrainingLevels:
    """Levels of at least three sessions whose transmitters are known.

    Raises:
        ModelError: If there are fewer, none was heard, the shapes disagree, or a level that counts
            is not finite.
    """

    levels_db: NDArray[np.float64]
    """`(n, receivers)`."""
    present: NDArray[np.bool_]
    """`(n, receivers)`, true where the receiver was up."""
    position_deg: NDArray[np.float64]
    """`(n, 2)`: latitude and longitude of the transmitters, WGS84."""
    receivers_deg: NDArray[np.float64]
    """`(receivers, 2)`."""
    region: Region
    """The plane in which methods compute."""

    def __post_init__(self) -> None:
        position, receivers = (
            np.asarray(places, dtype=np.float64).reshape(-1, 2)
            for places in (self.position_deg, self.receivers_deg)
        )
        levels, present = checked_levels(self.levels_db, self.present, len(receivers))
        if len(levels) != len(position) or len(levels) < LEAST_SESSIONS or not present.any():
            raise ModelError(
                f"{len(levels)} sessions with levels ({present.any(axis=1).sum()} were heard) and "
                f"{len(position)} positions; give as many of both, at least {LEAST_SESSIONS}"
            )
        for field, value in zip(fields(self), (levels, present, position, receivers), strict=False):
            object.__setattr__(self, field.name, value)

    @property
    def places(self) -> NDArray[np.float64]:
        """The transmitters in plane units, `(n, 2)`: east, north."""
        return self.region.to_plane(self.position_deg)

    def some(self, n_sessions: int) -> TrainingLevels:
        """At most so many of the sessions: a random choice, always the same."""
        if len(self.levels_db) <= n_sessions:
            return self
        return self.only(self.some_rows(n_sessions))

    def some_rows(self, n_sessions: int) -> NDArray[np.intp]:
        """Rows of `some`, in random order."""
        return np.random.default_rng(0).permutation(len(self.levels_db))[:n_sessions]

    def only(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> TrainingLevels:
        """The sessions in these rows."""
        return replace(
            self,
            levels_db=self.levels_db[rows],
            present=self.present[rows],
            position_deg=self.position_deg[rows],
        )


def checked_levels(
    levels_db: ArrayLike, present: ArrayLike, n_receivers: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Levels and presence as arrays `(n, receivers)`; levels of absent receivers become zero."""
    levels = np.asarray(levels_db, dtype=np.float64)
    up = np.asarray(present, dtype=bool)
    if levels.ndim != 2 or levels.shape != up.shape or levels.shape[1] != n_receivers:
        raise ModelError(
            f"levels {levels.shape} and present {up.shape} must both be (n, {n_receivers}), "
            f"sessions by receivers"
        )
    if not np.isfinite(levels[up]).all():
        raise ModelError("a level of a receiver that is present is not finite")
    return np.where(up, levels, 0.0), up
