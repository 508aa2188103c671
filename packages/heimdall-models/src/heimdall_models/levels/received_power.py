"""How loud each receiver hears the signal, from features in decibels.

The power of all bands, averaged over the frames, less the receiver's noise. The noise is seen
where no signal is, in the outermost bands. What share of the noise those hold depends on the
filter bank alone: it is learned from the recording with the faintest signal, of which
the outermost bands hold more than of any other. A receiver whose features are all one value,
the fill of the feature extractor, was down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heimdall_models.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

OUTER_SHARE = 3 / 32
"""Of the bands, on either side: 15 kHz and more from the carrier at 48 kHz."""
NOISE_QUANTILE = 0.25
"""Of a receiver's sessions, in what the outermost bands hold: stray signals there are rarer."""
FAINTEST = 0.03
"""Signal over noise, -15 dB, below which nothing can be measured: the least that is reported."""
SILENT_SPREAD_DB = 0.01
"""Features that vary less than this over all bands and frames are a fill: noise varies more."""


@dataclass(frozen=True, slots=True)
class ReceivedPower:
    """Powers of full scale, `(n, receivers)` each; zero where a receiver was down."""

    total: NDArray[np.float64]
    outer: NDArray[np.float64]
    """In the outermost bands."""
    present: NDArray[np.bool_]

    @classmethod
    def of(cls, features_db: NDArray[np.floating]) -> ReceivedPower:
        """Of features `(n, receivers, bands, frames)`, dB of full scale."""
        features = np.asarray(features_db, dtype=np.float64)
        if features.ndim != 4 or 0 in features.shape:
            raise ModelError(
                f"features must be (n, receivers, bands, frames) in dB; got {features.shape}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            spread = features.max(axis=(2, 3)) - features.min(axis=(2, 3))
            bands = np.power(10.0, features / 10).mean(axis=3)
        # What is no number was not heard; training stops at it, and says whose it is.
        present = (spread > SILENT_SPREAD_DB) & np.isfinite(spread) & np.isfinite(bands.sum(axis=2))
        bands = np.where(present[:, :, None], bands, 0.0)
        n_outer = n_outer_bands(features.shape[2])
        outer = bands[:, :, :n_outer].sum(axis=2) + bands[:, :, -n_outer:].sum(axis=2)
        return cls(bands.sum(axis=2), outer, present)

    @classmethod
    def joined(cls, parts: Iterable[ReceivedPower]) -> ReceivedPower:
        """Sessions one after another."""
        columns = zip(*((part.total, part.outer, part.present) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

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
        """Level of the signal in dB of full scale, `(n, receivers)`; zero where one was down.

        Args:
            noise: Noise powers, `(receivers,)`.
        """
        power = np.maximum(self.total - noise, FAINTEST * noise)
        return 10 * np.log10(np.where(self.present & (power > 0), power, 1.0))


def n_outer_bands(n_bands: int) -> int:
    """Bands on either side that hold noise alone."""
    return max(round(OUTER_SHARE * n_bands), 1)
