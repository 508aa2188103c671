"""`heimdall compare`: two models on the same recordings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from heimdall_trainer.cli.flags import ConfigFile
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.errors import TrainerError

if TYPE_CHECKING:
    from heimdall_evaluation.compare.pairs import Pair
    from heimdall_evaluation.compare.significance import Outcome
    from heimdall_evaluation.report import Part
    from heimdall_evaluation.results import ModelResult

    from heimdall_trainer.data import TrainingData

__all__ = ["Compared", "compare", "compare_models"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def compare(
    a: str,
    b: str,
    /,
    *,
    split: Literal["train", "validation", "test", "all"] = "test",
    report: Path | None = None,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Compare two models on the same sessions, with a paired test of significance.

    The test takes a transmitter for one observation, since its sessions are not independent.
    Reports hold what is needed: two of them are compared without any server. --summary writes
    everything as JSON.

    Parameters
    ----------
    a
        A model file, .ckpt, s3://bucket/key, models:/name@alias, or the report of a run (.html).
    b
        Another one.
    split
        Which part of the sessions; a report has those of its own evaluation.
    report
        Where the page goes; compare-A-B.html in the working directory when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    from heimdall_trainer.console import require_writable

    require_writable(config.summary)
    if not (_is_report(a) and _is_report(b)):
        check_connections(connections)
    compare_models((a, b), config, connections, part=split, report=report)


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """Two models, the outcome of their comparison, and its page."""

    pair: Pair
    found: Outcome
    fair: Outcome | None
    """On the sessions that no model was trained on, where those are fewer."""
    page: Path


def compare_models(
    models: tuple[str, str],
    config: TrainingConfig,
    connections: Connections,
    *,
    part: Part = "test",
    report: Path | None = None,
) -> Compared:
    """Compare two models, print the outcome, and write page and summary.

    Args:
        models: Models as in `opened_model`, or reports.
        config: The split, and the path of the summary.
        connections: Addresses of all servers; reports need none.
        part: Side of the split.
        report: Path of the page.

    Raises:
        TrainerError: There is no such model, the models cannot be compared, or the page or the
            summary cannot be written.
        ExportError: A model cannot be fetched, or is damaged.
    """
    from heimdall_evaluation.compare.page import render_comparison
    from heimdall_evaluation.compare.pairs import paired
    from heimdall_evaluation.compare.significance import outcome
    from heimdall_evaluation.compare.wording import comparison_summary, print_comparison

    from heimdall_trainer.console import write_json
    from heimdall_trainer.models import file_name
    from heimdall_trainer.provenance import command_line, package_versions, provenance_of_source

    pair = paired(*_sides(models, config, connections, part))
    found = outcome(pair.a.evaluation, pair.b.evaluation)
    rest = pair.unseen
    fair = None if rest is None else outcome(rest.a.evaluation, rest.b.evaluation)
    target = report or Path(f"compare-{file_name(models[0])}-{file_name(models[1])}.html")
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


def _is_report(model: str) -> bool:
    return model.endswith((".html", ".htm"))


def _sides(
    models: tuple[str, str], config: TrainingConfig, connections: Connections, part: Part
) -> tuple[ModelResult, ModelResult]:
    """Both models with their evaluations; data that both take alike are loaded once."""
    from heimdall_evaluation.report.embedded import read_report
    from heimdall_evaluation.results import ModelResult

    from heimdall_trainer.data import load_training_data
    from heimdall_trainer.evaluation import evaluate_part
    from heimdall_trainer.models import opened_model

    loaded: list[tuple[TrainingConfig, TrainingData]] = []

    def load(wanted: TrainingConfig) -> TrainingData:
        for known, data in loaded:
            if known == wanted:
                return data
        loaded.append((wanted, load_training_data(wanted, connections)))
        return loaded[-1][1]

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

    first, second = side(models[0]), side(models[1])
    if first.name == second.name:
        first, second = replace(first, name=models[0]), replace(second, name=models[1])
    return first, second
