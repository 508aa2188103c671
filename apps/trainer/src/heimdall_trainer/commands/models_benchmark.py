"""`heimdall models benchmark`: what each precision of a model costs and gains, in one run."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import Annotated

from cyclopts import Parameter

from heimdall_trainer.connections import Connections
from heimdall_trainer.training_config import TrainingConfig

__all__ = ["benchmark"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()


def benchmark(
    model: str,
    /,
    *,
    seconds: float = 5.0,
    batch_sizes: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (
        1,
        8,
        32,
    ),
    output: Path | None = None,
    config: TrainingConfig = DEFAULTS,
    connections: Connections = NOWHERE,
) -> None:
    """Measure a model file at every precision: speed, size, memory, and error in metres.

    With --checkpoint beside PyTorch, with --compile beside torch.compile too. The split is that of
    the training where --seed, --split_by and the fractions are the same.

    Parameters
    ----------
    model
        A file or checkpoint of `heimdall train`, s3://bucket/key, or models:/name@alias. What is
        measured of one in a store is added to its sidecar and its run.
    seconds
        How long to measure at each batch size and number of threads.
    batch_sizes
        Sessions in one call.
    output
        Where the figures go as JSON; beside the model, or in the state directory, when unset.
    """
    from heimdall_trainer.preflight import check_connections

    check_connections(connections)
    from heimdall_trainer.benchmarking import benchmark_file

    lines = benchmark_file(
        model, config, connections, seconds=seconds, batch_sizes=batch_sizes, output=output
    )
    for line in lines:
        print(line, flush=True)
