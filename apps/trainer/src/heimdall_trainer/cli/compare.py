"""`heimdall compare`: two models on the same recordings."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from heimdall_trainer.config import OF_SPLIT, TrainingConfig
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.flags import ConfigFile, acting

if TYPE_CHECKING:
    from heimdall_evaluation.report import Part
    from heimdall_evaluation.results import ModelResult

    from heimdall_trainer.data import TrainingData

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def compare(
    a: str,
    b: str,
    /,
    *,
    split: Literal["train", "validation", "test", "all"] = "test",
    report: Path | None = None,
    config: Annotated[TrainingConfig, acting(*OF_SPLIT, "summary")] = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Compare two models on the same sessions, with a paired test of significance.

    In the test a transmitter is one observation, since its sessions are not independent.
    Reports hold what is needed: two of them are compared without any server. A model file has its
    own receivers and rate: --receivers, --sample_rate_hz and --opset are for checkpoints.
    --summary writes everything as JSON.

    Parameters
    ----------
    a
        A model file, .ckpt, s3://bucket/key, models:/name@alias, or the report of a run (.html).
    b
        Another one.
    split
        Which part of the sessions; a report has those of its own evaluation.
    report
        Path of the page; compare-A-B.html in the working directory when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    from heimdall_trainer.console import require_writable, write_json

    require_writable(config.summary)
    if not (_is_report(a) and _is_report(b)):
        check_connections(connections)
    from heimdall_evaluation.compare.page import render_comparison
    from heimdall_evaluation.compare.pairs import paired
    from heimdall_evaluation.compare.significance import outcome
    from heimdall_evaluation.compare.wording import comparison_summary, print_comparison

    from heimdall_trainer.models import file_name
    from heimdall_trainer.provenance import command_line, package_versions, provenance_of_source

    pair = paired(*_sides((a, b), config, connections, split))
    found, rest = outcome(pair.a.evaluation, pair.b.evaluation), pair.unseen
    fair = None if rest is None else outcome(rest.a.evaluation, rest.b.evaluation)
    target = report or Path(f"compare-{file_name(a)}-{file_name(b)}.html")
    versions = provenance_of_source() | package_versions()
    page = render_comparison(pair, found, fair, target, command=command_line(), versions=versions)
    print_comparison(pair, found, fair, page)
    if config.summary:
        write_json(config.summary, comparison_summary(pair, found, fair, page))


def _is_report(model: str) -> bool:
    return model.endswith((".html", ".htm"))


def _sides(
    models: tuple[str, str], config: TrainingConfig, connections: Connections, part: Part
) -> tuple[ModelResult, ModelResult]:
    """Both models with their evaluations; models with the same configuration share their data."""
    from heimdall_evaluation.report.embedded import read_report
    from heimdall_evaluation.results import ModelResult

    from heimdall_trainer.data import load_training_data
    from heimdall_trainer.delivery import evaluate_part
    from heimdall_trainer.models import opened_model

    @cache
    def load(wanted: TrainingConfig) -> TrainingData:
        return load_training_data(wanted, connections)

    def side(model: str) -> ModelResult:
        if _is_report(model):
            result = read_report(model)
            return replace(result, name=f"{result.name} ({Path(model).name})")
        with opened_model(model, config, connections, load) as opened:
            evaluated = evaluate_part(opened.file.path, opened.data, part, opened.trained_on)
            return ModelResult(
                name=opened.file.name,
                evaluation=evaluated.evaluation,
                receivers=opened.file.receivers,
                region=opened.file.region,
            )

    first, second = map(side, models)
    if first.name == second.name:
        first, second = replace(first, name=models[0]), replace(second, name=models[1])
    return first, second
