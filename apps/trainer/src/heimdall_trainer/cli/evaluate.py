"""`heimdall evaluate`: figures of a model on recordings of known transmitters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from heimdall_trainer.config import OF_SPLIT, TrainingConfig
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.errors import one_line
from heimdall_trainer.flags import ConfigFile, acting

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def evaluate(
    model: str,
    /,
    *,
    split: Literal["train", "validation", "test", "all"] = "test",
    report: Path | None = None,
    config: Annotated[TrainingConfig, acting(*OF_SPLIT, "summary")] = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Evaluate a model on a part of the split, and write its report.

    The split is that of the training where --seed, --split_by and the fractions are the same.
    A model file has its own receivers and rate: --receivers, --sample_rate_hz and --opset are for
    checkpoints.
    --summary writes metrics, sessions and the report's path as JSON.

    Parameters
    ----------
    model
        A model file, a checkpoint (.ckpt), s3://bucket/key, or models:/name@alias.
    split
        Which part of the sessions.
    report
        Path of the HTML report; beside the model, or in the state directory, when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    from heimdall_evaluation.evaluate import print_evaluation

    from heimdall_trainer.console import require_writable, write_json

    require_writable(config.summary)
    check_connections(connections)
    from heimdall_trainer.models import evaluate_file

    evaluated, page = evaluate_file(model, config, connections, report, split)
    print_evaluation(evaluated)
    print(f"report      {one_line(str(page))}")
    if config.summary:
        found = evaluated.evaluation
        summary = {
            "model": model,
            "split": found.part,
            "n_sessions": len(found),
            "n_sources": len(set(found.source_names)),
            "n_trained_on": None if found.trained_on is None else sum(found.trained_on),
            "metrics": dict(evaluated.metrics),
            "report": str(page),
        }
        write_json(config.summary, summary)
