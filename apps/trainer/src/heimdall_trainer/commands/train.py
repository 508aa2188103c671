"""`heimdall train`: one call of the pipeline, and a closing table."""

from __future__ import annotations

from heimdall_trainer.connections import Connections
from heimdall_trainer.training_config import TrainingConfig

__all__ = ["train"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def train(*, config: TrainingConfig = DEFAULTS, connections: Connections = NOWHERE) -> None:
    """Train a model on the approved recordings, export, register and evaluate it."""
    from heimdall_trainer.preflight import check_connections

    check_connections(connections)
    from heimdall_trainer.closing import print_closing
    from heimdall_trainer.pipeline import TrainingPipeline

    print_closing(TrainingPipeline(config, connections).run())
