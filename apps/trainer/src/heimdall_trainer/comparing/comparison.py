"""`heimdall compare` as a function."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall_trainer.comparing.closing import comparison_summary, print_comparison
from heimdall_trainer.comparing.page import render_comparison
from heimdall_trainer.comparing.pairs import Pair, paired
from heimdall_trainer.comparing.sides import sides_of
from heimdall_trainer.comparing.significance import Outcome, outcome
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.evaluation_summary import write_json

if TYPE_CHECKING:
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.report import Part
    from heimdall_trainer.training_config import TrainingConfig

__all__ = ["Compared", "compare_models"]


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
        page = render_comparison(pair, found, fair, target)
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
