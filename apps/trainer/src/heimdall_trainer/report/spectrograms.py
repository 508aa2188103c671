"""What the network was shown of a session: one small picture, receivers side by side.

The picture is a PNG inside the page, a pixel for each value; the page scales it up.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

from heimdall_trainer.report.quantities import decimal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heimdall_trainer.report.contents import Evaluation, SessionSpectrograms

__all__ = ["SpectrogramPicture", "picture_of", "pictures"]

_UNHEARD = (0.6, 0.6, 0.6, 0.35)
_QUIET_PERCENTILE, _LOUD_PERCENTILE = 2.0, 99.8


@dataclass(frozen=True, slots=True)
class SpectrogramPicture:
    """A picture, ready for the page."""

    source_name: str
    session_id: str
    names: tuple[str, ...]
    source: str
    """A `data:` address."""
    about: str


def pictures(
    evaluation: Evaluation, shown: tuple[SessionSpectrograms, ...]
) -> list[SpectrogramPicture]:
    """One picture for each session, in the order given."""
    sources = dict(zip(evaluation.session_ids, evaluation.source_names, strict=True))
    return [picture_of(session, sources.get(session.session_id, "")) for session in shown]


def picture_of(session: SessionSpectrograms, source_name: str) -> SpectrogramPicture:
    """The spectrograms of a session on one colour scale, which is that of what was heard."""
    heard = np.array(session.heard, dtype=np.bool_)
    if heard.any():
        levels = session.levels_db[heard]
        low, high = np.percentile(levels, [_QUIET_PERCENTILE, _LOUD_PERCENTILE])
        scale = f"{decimal(float(low), 0)} to {decimal(float(high), 0)} dB"
    else:
        low, high, scale = 0.0, 1.0, "nothing was heard"
    return SpectrogramPicture(
        source_name=source_name,
        session_id=session.session_id,
        names=session.receivers,
        source=_png(_coloured(session.levels_db, heard, (float(low), float(high)))),
        about=f"{scale}; {int(heard.sum())} of {len(heard)} receivers",
    )


def _coloured(
    levels_db: NDArray[np.float32], heard: NDArray[np.bool_], limits: tuple[float, float]
) -> NDArray[np.uint8]:
    """(bands, receivers * (frames + 1), 4): the highest band first, a clear line between two."""
    low, high = limits
    shares = np.clip((levels_db - low) / max(high - low, 1e-6), 0, 1)
    colours = colormaps["viridis"](shares)
    colours[~heard] = _UNHEARD
    gap = np.zeros((*colours.shape[:2], 1, 4))
    panels = np.concatenate([colours, gap], axis=2)[:, ::-1]
    whole = np.concatenate(list(panels), axis=1)
    return np.round(255 * whole).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> str:
    written = io.BytesIO()
    # Its own note names its version, with which the bytes would change.
    imsave(written, pixels, format="png", metadata={"Software": "heimdall"})
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode("ascii")
