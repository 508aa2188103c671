"""The report of a run: what the pipeline made, as the page's contents."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from heimdall_trainer.report import Receiver, ReportContents, render_report
from heimdall_trainer.run_record import command_line, package_versions, provenance_of
from heimdall_trainer.timing_baselines import SPECTROGRAMS_ALONE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_trainer.evaluation import EvaluatedModel
    from heimdall_trainer.report import ModelSummary
    from heimdall_trainer.training import TrainedModel
    from heimdall_trainer.training_data import TrainingData

__all__ = ["write_report"]


def write_report(
    path: Path,
    data: TrainingData,
    model: ModelSummary,
    evaluated: EvaluatedModel,
    *,
    seed: int,
    timings: Mapping[str, float],
    trained: TrainedModel | None = None,
) -> Path:
    """Write an evaluation's HTML report to `path`, with the training's curves where there are any.

    Args:
        path: Where it goes.
        data: Receivers, region and split.
        model: What was evaluated.
        evaluated: What it and the baselines are worth.
        seed: Of the split.
        timings: Seconds by stage.
        trained: The run's training, if this is its report.

    Raises:
        ReportError: It cannot be written.
    """
    contents = ReportContents(
        title=f"Heimdall {path.stem}",
        created_at=datetime.now(UTC),
        command=command_line(),
        seed=seed,
        versions=package_versions(),
        model=model,
        region=data.region,
        receivers=tuple(
            Receiver(station.name, station.latitude_deg, station.longitude_deg)
            for station in data.receivers
        ),
        evaluation=evaluated.evaluation,
        baselines=evaluated.baselines,
        beside=SPECTROGRAMS_ALONE,
        metrics=evaluated.metrics,
        spectrograms=evaluated.spectrograms,
        provenance=provenance_of(data),
        history=trained.history if trained else (),
        best_epoch=trained.best_epoch if trained else None,
        more_curves=trained.more_curves if trained else (),
        excluded=_left_out(data),
        not_used=data.not_used,
        split_report=asdict(data.split.report),
        timings=timings,
    )
    return render_report(contents, path)


def _left_out(data: TrainingData) -> tuple[tuple[str, str], ...]:
    """Session ids and reasons: sessions that cannot be used, and what others had to do without."""
    sessions = [(left.session_id, left.reason) for left in data.exclusions]
    recordings = [
        (left.session_id, f"used without {left.station}: {left.reason}") for left in data.unusable
    ]
    return (*sessions, *recordings)
