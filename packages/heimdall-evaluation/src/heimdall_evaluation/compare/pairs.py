"""Sessions that two evaluations share, and the conditions for comparing them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from heimdall_features.names import composed
from heimdall_models import error_m
from heimdall_models.metrics import Posteriors

from heimdall_evaluation.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heimdall_evaluation.results import Evaluation, ModelResult

_SAME_PLACE_M = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """Results of two models on the same sessions, in the same order."""

    a: ModelResult
    b: ModelResult
    n_left_out: int
    """Sessions that only one of them was evaluated on."""

    @property
    def sides(self) -> tuple[tuple[str, ModelResult], ...]:
        """Both, with their letters."""
        return ("A", self.a), ("B", self.b)

    @property
    def seen(self) -> tuple[int, ...]:
        """Rows of the sessions that a model is known to have been trained on."""
        known = [side.evaluation.trained_on or () for side in (self.a, self.b)]
        return tuple(sorted({k for flags in known for k, flag in enumerate(flags) if flag}))

    @property
    def unseen(self) -> Pair | None:
        """The pair without the seen sessions; None if there are none, or no others."""
        kept = sorted(set(range(len(self.a.evaluation))) - set(self.seen))
        if not self.seen or not kept:
            return None
        return replace(self, a=_rows(self.a, kept), b=_rows(self.b, kept))


def paired(a: ModelResult, b: ModelResult) -> Pair:
    """Pair two results on the sessions that both have.

    Raises:
        EvaluationError: The models have different receivers or regions, no session is in both, or
            a transmitter has moved in between.
    """
    here, there = ([composed(receiver.name) for receiver in side.receivers] for side in (a, b))
    # One may have more receivers: then the comparison shows what the others are worth.
    if not (set(here) <= set(there) or set(there) <= set(here)):
        raise EvaluationError(
            f"{a.name} has receivers {', '.join(here)} and {b.name} has {', '.join(there)}: "
            "neither has all of the other's; compare models of the same receivers"
        )
    centres = [np.array([[s.region.latitude_deg, s.region.longitude_deg]]) for s in (a, b)]
    apart_m = float(error_m(*centres)[0])
    if apart_m > min(a.region.scale_m, b.region.scale_m):
        raise EvaluationError(
            f"the regions of {a.name} and {b.name} have centres {apart_m / 1000:.0f} km apart; "
            "compare models of one region"
        )
    place = {id_: k for k, id_ in enumerate(b.evaluation.session_ids)}
    left = [k for k, id_ in enumerate(a.evaluation.session_ids) if id_ in place]
    if not left:
        raise EvaluationError(
            f"{a.name} and {b.name} have no session in common; evaluate both with the same "
            "--split, --seed and --split_by"
        )
    right = [place[a.evaluation.session_ids[k]] for k in left]
    n_left_out = len(a.evaluation) + len(b.evaluation) - 2 * len(left)
    pair = Pair(a=_rows(a, left), b=_rows(b, right), n_left_out=n_left_out)
    moved_m = error_m(pair.a.evaluation.truth_deg, pair.b.evaluation.truth_deg)
    if (moved := np.flatnonzero(moved_m > _SAME_PLACE_M)).size:
        session_id, by_m = pair.a.evaluation.session_ids[moved[0]], moved_m[moved[0]]
        raise EvaluationError(
            f"the transmitter of session {session_id} was {by_m:.0f} m elsewhere when {b.name} was "
            "evaluated: the catalogue was corrected in between; evaluate both again"
        )
    return pair


def subset(evaluation: Evaluation, rows: Sequence[int]) -> Evaluation:
    """Some of the sessions, in the order of the rows."""
    columns: dict[str, Any] = {}
    for column in fields(evaluation):
        values = getattr(evaluation, column.name)
        if isinstance(values, Posteriors):
            columns[column.name] = Posteriors(*(part[list(rows)] for part in values))
        elif isinstance(values, tuple):
            columns[column.name] = tuple(values[k] for k in rows)
        elif isinstance(values, np.ndarray):
            columns[column.name] = values[list(rows)]
    return replace(evaluation, **columns)


def _rows(side: ModelResult, rows: Sequence[int]) -> ModelResult:
    return replace(side, evaluation=subset(side.evaluation, rows))
