"""`heimdall models benchmark`: speed, size and error of a model at every precision."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections, check_connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from heimdall_export.benchmark import Contender, Row
    from heimdall_export.session import Sample
    from numpy.typing import NDArray

    from heimdall_trainer.models import OpenedModel

    Feed = Mapping[str, NDArray[np.float32]]

__all__ = ["benchmark", "benchmark_file"]

DEFAULTS = TrainingConfig()
NOWHERE = Connections()
PROVIDERS = ("OpenVINOExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider")
"""Measured besides the CPU, if this ONNX Runtime has them."""


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
    check_connections(connections)
    for line in benchmark_file(
        model, config, connections, seconds=seconds, batch_sizes=batch_sizes, output=output
    ):
        print(line, flush=True)


def benchmark_file(
    model: str,
    config: TrainingConfig,
    connections: Connections,
    *,
    seconds: float,
    batch_sizes: Sequence[int],
    output: Path | None = None,
) -> Iterator[str]:
    """Measure a model and its variants, and yield the lines of a report as they are known.

    Args:
        model: As in `opened_model`. A file that is not of float32 is measured alone.
        config: The split, and with `checkpoint` the network that PyTorch runs.
        connections: Addresses of all servers.
        seconds: For all contenders together, at each batch size and number of threads.
        batch_sizes: Sessions in one call.
        output: Path of the figures as JSON; beside the model when None, or in `benchmarks` of the
            state directory for an address.

    Raises:
        TrainerError, ExportError: There is no such model, or the data do not fit it.
    """
    from heimdall_evaluation.judging import N_CALIBRATED, calibration_sample
    from heimdall_export.atomic import write_whole
    from heimdall_export.benchmark import as_json
    from heimdall_export.benchmark import benchmark as measure

    from heimdall_trainer.models import beside, opened_model

    target = output or beside(model, ".benchmark.json", "benchmarks", connections)
    with opened_model(model, config, connections) as opened:
        train = opened.data.train
        sample = calibration_sample(train.subset(train.sessions[:N_CALIBRATED]))
        with tempfile.TemporaryDirectory(prefix="heimdall-benchmark-") as folder:
            files = [*_files(opened, Path(folder), sample)]
            contenders = [*_networks(config, opened), *files]
            yield from _costs(contenders)
            rows: list[Row] = []
            yield (
                "\n| contender | threads | batch | median ms | p95 ms | per second | times faster |"
                "\n|---|---|---|---|---|---|---|"
            )
            for row in measure(contenders, sample, batch_sizes=batch_sizes, seconds=seconds):
                rows.append(row)
                yield (
                    f"| {row.name} | {row.n_threads} | {row.batch_size} | {row.median_ms:.2f} | "
                    f"{row.p95_ms:.2f} | {row.per_second:.0f} | {row.times_faster:.2f} |"
                )
        figures = as_json(contenders, rows) | {"machine": _machine()}
        write_whole(target, json.dumps(figures, indent=2))
        yield f"\nfigures     {target}"
        if opened.uri:
            yield from _publish(opened, figures, target, connections)


def _files(opened: OpenedModel, folder: Path, sample: Sample) -> Iterator[Contender]:
    """The file and its variants on the CPU, and the file with the other providers."""
    import onnxruntime
    from heimdall_evaluation.judging import judge_of
    from heimdall_export.benchmark import file_contender
    from heimdall_export.graph.quantize import KINDS, NothingToQuantize, quantize_model
    from heimdall_export.serving.metadata import PRECISION_KEY

    judge, model = judge_of(opened.data.validation), opened.file.path
    given = opened.file.metadata.get(PRECISION_KEY, "float32")
    yield file_contender(given, model, figures=judge(model))
    for kind in KINDS if given == "float32" else ():
        target = folder / f"{kind}.onnx"
        try:
            path = quantize_model(
                model, target, kind, features=sample.features, arrivals=sample.arrivals
            )
        except NothingToQuantize:
            continue
        yield file_contender(kind, path, figures=judge(path))
    for provider in PROVIDERS:
        if provider in onnxruntime.get_available_providers():
            name = f"{given} on {provider.removesuffix('ExecutionProvider')}"
            yield file_contender(name, model, provider=provider)


def _networks(config: TrainingConfig, opened: OpenedModel) -> Iterator[Contender]:
    """The network of `--checkpoint` in PyTorch, and compiled with `--compile`."""
    import torch
    from heimdall_export.benchmark import Contender
    from heimdall_models.trained import Trained
    from heimdall_models.training.resume import exported_network

    def runner(network: Callable[..., object]) -> Callable[[int], Callable[[Feed], object]]:
        @torch.inference_mode()
        def run(feed: Feed) -> object:
            return network(*map(torch.from_numpy, feed.values()))

        def with_threads(n_threads: int) -> Callable[[Feed], object]:
            torch.set_num_threads(n_threads)
            return run

        return with_threads

    if config.checkpoint:
        network = exported_network(Trained.open(config.checkpoint[0]), opened.data)
        yield Contender(name="PyTorch eager", open=runner(network))
        if config.compile:
            yield Contender(name="torch.compile", open=runner(torch.compile(network)))


def _costs(contenders: Sequence[Contender]) -> Iterator[str]:
    """A table of the costs that do not depend on batches."""
    from heimdall_export.benchmark import THREADS, read_ms

    reads = "".join(f" read at {n} thread{'s' * (n > 1)} ms |" for n in THREADS)
    yield (
        f"| contender | MB | load s | memory MB |{reads} median error m | NLL | "
        "coverage 68 % | coverage 95 % |"
    )
    yield "|---" * (8 + len(THREADS)) + "|"
    for one in contenders:
        if one.size_bytes is None or one.load_s is None or one.memory_mb is None:
            continue
        read = " | ".join(f"{read_ms(one.size_bytes, n_threads):.2f}" for n_threads in THREADS)
        quality = "| | |"
        if figures := one.figures:
            quality = (
                f"{figures['error_m_median']:.0f} | {figures['nll']:.3f} | "
                f"{figures['coverage_68']:.1%} | {figures['coverage_95']:.1%}"
            )
        yield (
            f"| {one.name} | {one.size_bytes / 1e6:.1f} | {one.load_s:.2f} | "
            f"{one.memory_mb:.0f} | {read} | {quality} |"
        )


def _machine() -> dict[str, object]:
    """The machine, because figures of two machines do not compare."""
    import onnxruntime
    import torch

    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }


def _publish(
    opened: OpenedModel, figures: Mapping[str, object], path: Path, connections: Connections
) -> Iterator[str]:
    """Add the figures to the model's sidecar and run."""
    from heimdall_export.object_store.upload import add_to_sidecar
    from heimdall_export.tracking.client import open_client, store_artifact

    client = connections.need_s3().client()
    yield f"sidecar     {add_to_sidecar(client, str(opened.uri), 'benchmark', figures)}"
    if run_id := opened.file.metadata.get("heimdall.run_id"):
        store = connections.artifact_store(of_mlflow=False)
        mlflow = open_client(connections.tracking_uri())
        store_artifact(mlflow, run_id, path, "benchmark", artifact_store=store)
        yield f"run         {run_id}, artifact benchmark/{path.name}"
