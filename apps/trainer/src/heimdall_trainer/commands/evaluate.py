"""`heimdall evaluate`: what a model file is worth on held-out recordings."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations

from heimdall_trainer.connections import Connections
from heimdall_trainer.flag_sources import ConfigFile  # noqa: TC001 - cyclopts reads the annotations
from heimdall_trainer.training_config import TrainingConfig

__all__ = ["evaluate"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def evaluate(
    model: Path,
    /,
    *,
    report: Path | None = None,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Evaluate a model file on the test part of the split, and write its report.

    The split is that of the training where --seed, --split_by and the fractions are the same.

    Parameters
    ----------
    model
        An ONNX file that `heimdall train` exported.
    report
        Where the HTML report goes; beside the model when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    from heimdall_trainer.preflight import check_connections

    check_connections(connections)
    from heimdall_trainer.closing import print_evaluation
    from heimdall_trainer.model_file import evaluate_file

    evaluated, page = evaluate_file(model, config, connections, report)
    print_evaluation(evaluated)
    print(f"report      {page}")
