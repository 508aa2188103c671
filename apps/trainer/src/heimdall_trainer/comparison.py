"""`heimdall compare` as a function.

What a model says of the sessions: asked now, or read from the report of when it was asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_evaluation.compare.console import comparison_summary, print_comparison
from heimdall_evaluation.compare.page import render_comparison
from heimdall_evaluation.compare.pairs import Pair, Side, paired
from heimdall_evaluation.compare.significance import Outcome, outcome
from heimdall_evaluation.report.embedded import read_report

from heimdall_trainer.errors import TrainerError
from heimdall_trainer.mlflow_run import command_line, package_versions, provenance_of_source
from heimdall_trainer.summary import write_json

if TYPE_CHECKING:
    from heimdall_evaluation.report import Part
    from heimdall_models.training.parts import TrainingData

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections

__all__ = ["Compared", "compare_models", "is_report", "sides_of"]


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
        from heimdall_trainer.data import load_training_data

        for known, data in loaded:
            if known == asked:
                return data
        loaded.append((asked, load_training_data(asked, connections)))
        return loaded[-1][1]

    def side(model: str) -> Side:
        if is_report(model):
            return _of_report(Path(model))
        from heimdall_trainer.evaluated import evaluate_part
        from heimdall_trainer.models import opened_model

        with opened_model(model, config, connections, load) as opened:
            evaluated = evaluate_part(opened.file.path, opened.data, part, opened.trained_on)
            return Side(
                name=opened.file.name,
                evaluation=evaluated.evaluation,
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """Two models, what their sessions tell, and where the page is."""

    pair: Pair
    found: Outcome
    fair: Outcome | None
    """Of the sessions that no model was trained on, where those are others."""
    page: Path


def compare_models(
    models: tuple[str, str],
    config: TrainingConfig,
    connections: Connections,
    *,
    part: Part = "test",
    report: Path | None = None,
) -> Compared:
    """Compare two models, print what comes of it, and write page and summary.

    Args:
        models: What `opened_model` takes, or reports.
        config: The split, and where the summary goes.
        connections: Where everything is; reports need nothing.
        part: Which side of the split.
        report: Where the page goes.

    Raises:
        TrainerError: There is no such model, comparing these means nothing, or the page or the
            summary cannot be written.
        ExportError: A model cannot be fetched, or is not what it must be.
    """
    pair = paired(*sides_of(models, config, connections, part))
    found = outcome(pair.a.evaluation, pair.b.evaluation)
    rest = pair.unseen
    fair = None if rest is None else outcome(rest.a.evaluation, rest.b.evaluation)
    target = report or Path(f"compare-{_short(models[0])}-{_short(models[1])}.html")
    try:
        page = render_comparison(
            pair,
            found,
            fair,
            target,
            command=command_line(),
            versions=provenance_of_source() | package_versions(),
        )
    except OSError as error:
        raise TrainerError(f"cannot write the page to {target}: {error.strerror}") from error
    print_comparison(pair, found, fair, page)
    if config.summary:
        write_json(config.summary, comparison_summary(pair, found, fair, page))
    return Compared(pair=pair, found=found, fair=fair, page=page)


def _short(model: str) -> str:
    """What tells a model from another, of letters that any file system takes."""
    name = model.rstrip("/").rpartition("/")[2]
    for ending in (".html", ".htm", ".onnx", ".ckpt"):
        name = name.removesuffix(ending)
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
