"""Evaluation of a model file on sessions, beside methods without a network.

The model file answers from IQ samples in a process that cannot import torch (`served`); the
baselines use the levels and times of the same sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from heimdall_models import error_m
from rich.console import Console
from rich.table import Table

from heimdall_evaluation.baselines import level_baselines, timing_baselines
from heimdall_evaluation.coverage import shares_inside
from heimdall_evaluation.errors import EvaluationError
from heimdall_evaluation.quantities import count
from heimdall_evaluation.report.sentences import about_check, about_trained_on, session_kind
from heimdall_evaluation.results import Evaluation, SessionSpectrograms
from heimdall_evaluation.served import predict_without_torch
from heimdall_evaluation.thresholds import check

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from heimdall_export.serving.metadata import Receiver
    from heimdall_models import Region

    from heimdall_evaluation.dataset import Dataset, Recordings, Session
    from heimdall_evaluation.results import BaselineResult, Check, Part


FEW = 20
"""Fewer errors have no 95th percentile that is not just the largest."""
_NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """Results of a model file and of the baselines on the same sessions."""

    evaluation: Evaluation
    baselines: tuple[BaselineResult, ...]
    metrics: Mapping[str, float]
    """By the contract's names, with `test/`, `val/`, `train/`, `all/` or `new/` in front."""
    spectrograms: tuple[SessionSpectrograms, ...] = ()
    """Inputs of the sessions with the largest errors, worst first."""
    checks: tuple[Check, ...] = ()
    """The thresholds that were asked for."""


def evaluate_model(
    onnx_path: Path,
    dataset: Dataset,
    recordings: Iterable[tuple[str, Recordings]],
    *,
    receivers: Sequence[Receiver],
    region: Region,
    training: Dataset | None = None,
    validation: Dataset | None = None,
    part: Part = "test",
    trained_on: Collection[str] | None = None,
    limits: Mapping[str, float] | None = None,
) -> EvaluatedModel:
    """Evaluate a model file, and the baselines on the same sessions.

    Args:
        onnx_path: The model file.
        dataset: The sessions, without augmentation.
        recordings: Id and recordings of each session, in the dataset's order; a generator keeps
            one session at a time in memory.
        receivers: The model's receivers, in channel order.
        region: Plane in which the baselines compute.
        training: Sessions that the level baselines are fitted to, without augmentation; None for
            no level baselines.
        validation: Sessions on which the level baselines' ellipses are calibrated, likewise.
        part: Side of the split that the sessions are.
        trained_on: Ids of the sessions that the model was trained on; None if not known.
        limits: By the names of thresholds, see `heimdall_evaluation.thresholds`.

    Raises:
        EvaluationError: The recordings are of other sessions than the dataset, or the model file
            failed, or there is no such threshold.
    """
    predictions = predict_without_torch(onnx_path, recordings)
    session_ids = tuple(session.id for session in dataset.sessions)
    if predictions.session_ids != session_ids:
        raise EvaluationError(
            f"recordings are of sessions {predictions.session_ids[:3]}…, the dataset is of "
            f"{session_ids[:3]}…; give the same sessions in the same order"
        )
    samples = [dataset[index] for index in range(len(dataset))]
    names = tuple(receiver.name for receiver in receivers)
    truth_deg = np.stack([sample["position_deg"] for sample in samples])
    evaluation = Evaluation(
        session_ids=session_ids,
        source_names=tuple(session.source_name for session in dataset.sessions),
        truth_deg=truth_deg,
        position_deg=predictions.position_deg,
        sigma_m=predictions.sigma_m,
        error_m=error_m(predictions.position_deg, truth_deg),
        n_present=np.stack([sample["present"] for sample in samples]).sum(axis=1),
        snr_db=np.array([_median_snr_db(session, names) for session in dataset.sessions]),
        correlation=predictions.correlation,
        posteriors=predictions.posteriors,
        part=part,
        trained_on=None if trained_on is None else tuple(id_ in trained_on for id_ in session_ids),
    )
    baselines: list[BaselineResult] = []
    if dataset.arrivals is not None:
        baselines += timing_baselines(onnx_path, samples, receivers, region)
    if training is not None:
        baselines += level_baselines(training, dataset, receivers, region, validation)
    prefix = "val" if part == "validation" else part
    return EvaluatedModel(
        evaluation=evaluation,
        baselines=tuple(baselines),
        metrics={f"{prefix}/{name}": value for name, value in evaluation.metrics().items()},
        spectrograms=tuple(
            SessionSpectrograms(
                session_id=session_ids[k],
                receivers=names,
                levels_db=samples[k]["features"],
                heard=tuple(map(bool, samples[k]["present"])),
            )
            for k in evaluation.worst
        ),
        checks=check(evaluation, limits or {}),
    )


def _median_snr_db(session: Session, receivers: Sequence[str]) -> float:
    known = [
        m.snr_db for m in session.measurements if m.station in receivers and m.snr_db is not None
    ]
    return float(np.median(known)) if known else float("nan")


def print_evaluation(evaluated: EvaluatedModel, console: Console | None = None) -> None:
    """Print the errors of a model and of the baselines, on the same sessions."""
    evaluation = evaluated.evaluation
    title = count(len(evaluation), session_kind(evaluation)).replace(_NBSP, " ")
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("median error", "68 %", "95 %", "in 68 / 95 % ellipse"):
        table.add_column(heading, justify="right")
    ours = {name.rpartition("/")[2]: value for name, value in evaluated.metrics.items()}
    for name, errors_m, inside in (
        ("model", evaluation.error_m, (ours["coverage_68"], ours["coverage_95"])),
        *((b.name, b.error_m, shares_inside(b, evaluation.truth_deg)) for b in evaluated.baselines),
    ):
        errors = [_km(float(q)) for q in np.nanquantile(errors_m, (0.5, 0.68, 0.95))]
        table.add_row(name, *errors, " / ".join(f"{share:.0%}" for share in inside or ()))
    out = console or Console(highlight=False, soft_wrap=True)
    out.print(table)
    if len(evaluation) < FEW:
        out.print(f"percentiles of so few sessions ({len(evaluation)}) say little")
    if evaluation.part == "new" or any(evaluation.trained_on or ()):
        out.print(about_trained_on(evaluation).replace(_NBSP, " "), markup=False)
    for each in evaluated.checks:
        line = f"{each.verdict:9s} --{each.threshold} {each.limit:g}: {about_check(each)}"
        out.print(line.replace(_NBSP, " "), markup=False)


def verdict(evaluation: Evaluation) -> str:
    """Return the result on held-out sessions in plain words."""
    found, n = evaluation.metrics(), len(evaluation)
    near = _km(found["error_m_median"])
    if n == 1:
        return f"The one unseen transmitter is {near} from where the model puts it."
    return (
        f"Half of {n} unseen transmitters are within {near} of where the model puts them, and "
        f"its 95 % ellipses hold {100 * found['coverage_95']:.0f} % of them."
    )


def _km(length_m: float) -> str:
    return f"{length_m / 1000:.1f} km" if length_m >= 1000 else f"{length_m:.0f} m"
