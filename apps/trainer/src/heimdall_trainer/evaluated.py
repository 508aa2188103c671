"""`heimdall evaluate` as a function: any model, any part of a split, and the report of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_evaluation.evaluate import EvaluatedModel, evaluate_model

from heimdall_trainer.delivery import write_report
from heimdall_trainer.models import file_name, is_address, opened_model

if TYPE_CHECKING:
    from heimdall_evaluation.report import Part

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.models import OpenedModel

__all__ = ["evaluate_file", "judged"]


def evaluate_file(
    model: str | Path,
    config: TrainingConfig,
    connections: Connections,
    report: Path | None = None,
    part: Part = "test",
) -> tuple[EvaluatedModel, Path]:
    """Evaluate a model on a part of a split, and write its report.

    Args:
        model: What `opened_model` takes.
        config: The split; receivers and features are the model's own.
        connections: Where everything is.
        report: Where the page goes; beside the model when None, or, of a model that is no file
            here, among the reports of the state directory.
        part: Which side of the split.

    Returns:
        The evaluation, and where the report is.

    Raises:
        TrainerError: There is no such model, or the part is empty.
        ExportError: It cannot be fetched, or is not what it must be.
        FeatureError: Its features cannot be computed by this version.
    """
    started = time.monotonic()
    with opened_model(str(model), config, connections) as opened:
        evaluated = judged(opened, part)
        page = write_report(
            report or _beside(str(model), part, connections),
            opened.data,
            opened.file.summary,
            evaluated,
            seed=config.seed,
            timings={"evaluation": time.monotonic() - started},
        )
    return evaluated, page


def judged(opened: OpenedModel, part: Part) -> EvaluatedModel:
    """Evaluate a model, and say which of the sessions it was trained on.

    Raises:
        TrainerError: The part is empty, or the file cannot be served.
    """
    evaluated = evaluate_model(opened.file.path, opened.data, part)
    if opened.trained_on is None:
        return evaluated
    seen = tuple(id_ in opened.trained_on for id_ in evaluated.evaluation.session_ids)
    return replace(evaluated, evaluation=replace(evaluated.evaluation, trained_on=seen))


def _beside(model: str, part: Part, connections: Connections) -> Path:
    """No two parts of a split have one page."""
    ending = ".html" if part == "test" else f".{part}.html"
    if is_address(model):
        name = file_name(model).removesuffix(".onnx") + ending
        return connections.state_directory() / "reports" / name
    return Path(model).with_suffix(ending)
