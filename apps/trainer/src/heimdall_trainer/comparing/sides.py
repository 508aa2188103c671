"""What a model says of the sessions: asked now, or read from the report of when it was asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_trainer.comparing.pairs import Side
from heimdall_trainer.report.embedded import read_report

if TYPE_CHECKING:
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.report import Part
    from heimdall_trainer.training_config import TrainingConfig
    from heimdall_trainer.training_data import TrainingData

__all__ = ["is_report", "sides_of"]


def is_report(model: str) -> bool:
    """Whether what is compared is the report of a model."""
    return model.endswith((".html", ".htm"))


def sides_of(
    models: tuple[str, str], config: TrainingConfig, connections: Connections, part: Part
) -> tuple[Side, Side]:
    """Both models with what they say; data that both take alike are loaded once.

    Raises:
        TrainerError: There is no such model or report, or the part is empty.
        ExportError: A model cannot be fetched, or is not what it must be.
    """
    loaded: list[tuple[TrainingConfig, TrainingData]] = []

    def load(asked: TrainingConfig) -> TrainingData:
        from heimdall_trainer.training_data import load_training_data

        for known, data in loaded:
            if known == asked:
                return data
        loaded.append((asked, load_training_data(asked, connections)))
        return loaded[-1][1]

    def side(model: str) -> Side:
        if is_report(model):
            return _of_report(Path(model))
        from heimdall_trainer.evaluated_file import judged
        from heimdall_trainer.model_sources import opened_model

        with opened_model(model, config, connections, load) as opened:
            return Side(
                name=opened.file.name,
                evaluation=judged(opened, part).evaluation,
                receivers=tuple(station.name for station in opened.data.receivers),
                region=opened.file.region,
            )

    first, second = side(models[0]), side(models[1])
    if first.name == second.name:
        first, second = replace(first, name=models[0]), replace(second, name=models[1])
    return first, second


def _of_report(path: Path) -> Side:
    found = read_report(path)
    return Side(
        name=f"{found.model} ({path.name})",
        evaluation=found.evaluation,
        receivers=tuple(receiver.name for receiver in found.receivers),
        region=found.region,
    )
