"""The features of a batch's sessions: from the cache, and the others several at a time.

While one session's recordings are on their way, another's features are computed. On a link
with some milliseconds to the store, one after the other would be mostly waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from heimdall_data.session_features import FeatureSource, SessionFeatures
    from heimdall_data.sessions import Session

__all__ = ["features_of_batch"]

THREADS = 8
"""With 2 cores, and a store on them or some milliseconds away."""


def features_of_batch(
    source: FeatureSource,
    sessions: Sequence[Session],
    keys: Sequence[str | None],
    rows: npt.NDArray[np.float32],
) -> list[SessionFeatures]:
    """The features of each session, in their order.

    Args:
        source: Where they come from.
        sessions: Which.
        keys: Of each in the cache, as far as is known.
        rows: Where the features go, `(sessions, receivers, n_mels, n_frames)`.

    Raises:
        StoreError: The store cannot be reached, refuses us or lacks the bucket.
    """
    found = [source.cached(key, row) for key, row in zip(keys, rows, strict=True)]
    missed = [number for number, one in enumerate(found) if one is None]
    if missed:
        # Of this batch alone: threads do not survive a fork.
        with source.reader.threads(min(THREADS, len(missed)), "batch") as pool:
            read = pool.map(lambda n: source.current(sessions[n], keys[n], rows[n]), missed)
            found = _filled(found, list(read))
    return [one for one in found if one is not None]


def _filled(
    found: Sequence[SessionFeatures | None], read: Sequence[SessionFeatures]
) -> list[SessionFeatures | None]:
    """`found` with what was read, in order, in its gaps."""
    gaps = iter(read)
    return [next(gaps) if one is None else one for one in found]
