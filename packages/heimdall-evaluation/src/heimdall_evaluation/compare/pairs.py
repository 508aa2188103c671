"""The sessions that two models were both asked about, and whether comparing them means anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from heimdall_models import error_m

from heimdall_evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_models import Region

    from heimdall_evaluation.results import Evaluation

__all__ = ["Pair", "Side", "paired", "subset"]

_SAME_PLACE_M = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One of the two models, and what it says of its sessions."""

    name: str
    evaluation: Evaluation
    receivers: tuple[str, ...]
    region: Region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """Two models and what both say of the same sessions, in the same order."""

    a: Side
    b: Side
    n_left_out: int
    """Sessions that only one of them was asked about."""

    @property
    def sides(self) -> tuple[tuple[str, Side], ...]:
        """Both, with their letters."""
        return (("A", self.a), ("B", self.b))

    @property
    def seen(self) -> tuple[int, ...]:
        """Rows of the sessions that a model is known to have been trained on."""
        known = [side.evaluation.trained_on or () for side in (self.a, self.b)]
        return tuple(sorted({k for flags in known for k, flag in enumerate(flags) if flag}))

    @property
    def unseen(self) -> Pair | None:
        """The pair without those sessions; None where there are none, or no others."""
        kept = sorted(set(range(len(self.a.evaluation))) - set(self.seen))
        if not self.seen or not kept:
            return None
        return replace(self, a=_rows(self.a, kept), b=_rows(self.b, kept))


def paired(a: Side, b: Side) -> Pair:
    """The sessions of both sides.

    Raises:
        EvaluationError: The models listen to different receivers, or are of different regions; no
            session is in both; or a transmitter has moved in between.
    """
    _require_same_receivers(a, b)
    _require_same_region(a, b)
    place = {id_: k for k, id_ in enumerate(b.evaluation.session_ids)}
    rows = [(k, place[id_]) for k, id_ in enumerate(a.evaluation.session_ids) if id_ in place]
    if not rows:
        raise EvaluationError(
            f"{a.name} and {b.name} were asked about no session in common; evaluate both with the "
            "same --split, --seed and --split_by"
        )
    left, right = zip(*rows, strict=True)
    pair = Pair(
        a=_rows(a, left),
        b=_rows(b, right),
        n_left_out=len(a.evaluation) + len(b.evaluation) - 2 * len(rows),
    )
    _require_same_truth(pair)
    return pair


def subset(evaluation: Evaluation, rows: Sequence[int]) -> Evaluation:
    """Some of the sessions, in that order."""
    picked = list(rows)
    return replace(
        evaluation,
        session_ids=tuple(evaluation.session_ids[k] for k in picked),
        source_names=tuple(evaluation.source_names[k] for k in picked),
        truth_deg=evaluation.truth_deg[picked],
        position_deg=evaluation.position_deg[picked],
        sigma_m=evaluation.sigma_m[picked],
        error_m=evaluation.error_m[picked],
        n_present=evaluation.n_present[picked],
        snr_db=None if evaluation.snr_db is None else evaluation.snr_db[picked],
        correlation=None if evaluation.correlation is None else evaluation.correlation[picked],
        trained_on=None
        if evaluation.trained_on is None
        else tuple(evaluation.trained_on[k] for k in picked),
    )


def _rows(side: Side, rows: Sequence[int]) -> Side:
    return replace(side, evaluation=subset(side.evaluation, rows))


def _require_same_receivers(a: Side, b: Side) -> None:
    """One may hear more than the other: then the question is what the others are worth."""
    here, there = set(a.receivers), set(b.receivers)
    if not (here <= there or there <= here):
        raise EvaluationError(
            f"{a.name} listens to {', '.join(a.receivers)} and {b.name} to "
            f"{', '.join(b.receivers)}: neither hears all that the other does, so that a "
            "difference would be one of receivers and not of models; compare models of the same"
        )


def _require_same_region(a: Side, b: Side) -> None:
    centres = [np.array([[s.region.latitude_deg, s.region.longitude_deg]]) for s in (a, b)]
    apart_m = float(error_m(*centres)[0])
    if apart_m > min(a.region.scale_m, b.region.scale_m):
        raise EvaluationError(
            f"{a.name} and {b.name} were made for regions whose centres are {apart_m / 1000:.0f} "
            "km apart: each knows nothing of most of the other's; compare models of one region"
        )


def _require_same_truth(pair: Pair) -> None:
    apart_m = error_m(pair.a.evaluation.truth_deg, pair.b.evaluation.truth_deg)
    moved = np.flatnonzero(apart_m > _SAME_PLACE_M)
    if moved.size:
        k = int(moved[0])
        raise EvaluationError(
            f"the transmitter of session {pair.a.evaluation.session_ids[k]} was "
            f"{apart_m[k]:.0f} m elsewhere when {pair.b.name} was evaluated: the catalogue was "
            "corrected in between; evaluate both again"
        )
