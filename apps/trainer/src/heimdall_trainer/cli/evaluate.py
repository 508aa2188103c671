"""`heimdall evaluate`: what a model is worth on recordings of known transmitters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from heimdall_trainer.cli.flags import ConfigFile
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections

__all__ = ["evaluate"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def evaluate(
    model: str,
    /,
    *,
    split: Literal["train", "validation", "test", "all"] = "test",
    report: Path | None = None,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Evaluate a model on a part of the split, and write its report.

    The split is that of the training where --seed, --split_by and the fractions are the same.
    --summary writes metrics, sessions and the report's place as JSON.

    Parameters
    ----------
    model
        A model file, a checkpoint (.ckpt), s3://bucket/key, or models:/name@alias.
    split
        Which part of the sessions.
    report
        Where the HTML report goes; beside the model when unset, or in the state directory.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    from heimdall_trainer.connections import check_connections
    from heimdall_trainer.summary import require_writable

    if config.summary:
        require_writable(config.summary)
    check_connections(connections)
    from heimdall_trainer.console import print_evaluation
    from heimdall_trainer.evaluated import evaluate_file
    from heimdall_trainer.summary import write_evaluation_summary

    evaluated, page = evaluate_file(model, config, connections, report, split)
    print_evaluation(evaluated)
    print(f"report      {page}")
    if config.summary:
        write_evaluation_summary(config.summary, evaluated, model, page)
