"""`heimdall models benchmark`: speed, size and error of a model at every precision."""

from __future__ import annotations

import json
import os
import platform
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from heimdall_trainer.config import OF_SPLIT, TrainingConfig
from heimdall_trainer.connections import Connections, check_connections
from heimdall_trainer.errors import one_line
from heimdall_trainer.flags import ConfigFile, acting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from heimdall_export.benchmark import Contender, Feed
    from heimdall_export.session import Sample

    from heimdall_trainer.models import OpenedModel

DEFAULTS = TrainingConfig()
NOWHERE = Connections()
PROVIDERS = ("OpenVINOExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider")
"""Measured besides the CPU, if this ONNX Runtime has them."""
BatchSizes = Annotated[
    tuple[Annotated[int, Parameter(validator=Number(gte=1, lte=65_536))], ...],
    Parameter(consume_multiple=True, negative=""),
]


def benchmark(
    model: str,
    /,
    *,
    seconds: Annotated[float, Parameter(validator=Number(gt=0, lte=3600))] = 5.0,
    batch_sizes: BatchSizes = (1, 8, 32),
    output: Path | None = None,
    config: Annotated[TrainingConfig, acting(*OF_SPLIT, "checkpoint", "compile")] = DEFAULTS,
    connections: Connections = NOWHERE,
    config_file: ConfigFile = None,
) -> None:
    """Measure a model file at every precision: speed, size, memory, and error in metres.

    With --checkpoint beside PyTorch, with --compile beside torch.compile too. The split is that of
    the training where --seed, --split_by and the fractions are the same; --receivers,
    --sample_rate_hz and --opset are for checkpoints. A file that is not of float32 is measured at
    its own precision alone.

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
        Path of the figures as JSON; beside the model, or in the state directory, when unset.
    config_file
        YAML file of flags, such as that of the training.
    """
    del config_file  # read before the other flags had their values
    check_connections(connections)
    import onnxruntime
    import torch
    from heimdall_evaluation.judging import calibration_sample
    from heimdall_export.atomic import write_whole
    from heimdall_export.benchmark import as_json
    from heimdall_export.benchmark import benchmark as measure
    from heimdall_export.temporary import TemporaryFolder

    from heimdall_trainer.models import beside, opened_model

    target = output or beside(model, ".benchmark.json", "benchmarks", connections)
    with (
        opened_model(model, config, connections) as opened,
        TemporaryFolder("benchmark") as folder,
    ):
        train = opened.data.train
        sample = calibration_sample(train.subset(train.sessions))  # without augmentation
        files = list(_files(opened, folder, sample))
        contenders = [*_networks(config, opened), *files]
        print(*_costs(files), sep="\n")
        print("\n| contender | threads | batch | median ms | p95 ms | per second | times faster |")
        print("|---" * 7 + "|", flush=True)
        rows = []
        for row in measure(contenders, sample, batch_sizes=batch_sizes, seconds=seconds):
            rows.append(row)
            print(
                f"| {row.name} | {row.n_threads} | {row.batch_size} | {row.median_ms:.2f} | "
                f"{row.p95_ms:.2f} | {row.per_second:.0f} | {row.times_faster:.2f} |",
                flush=True,
            )
        machine = {"processor": platform.machine(), "cores": os.cpu_count()}
        machine |= {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
        figures = as_json(contenders, rows) | {"machine": machine}
        write_whole(target, json.dumps(figures, indent=2))
        print(f"\nfigures     {one_line(str(target))}")
        if opened.uri:
            _publish(opened, figures, target, connections)


def _files(opened: OpenedModel, folder: Path, sample: Sample) -> Iterator[Contender]:
    """The file and its variants on the CPU, and the file with the other providers."""
    import onnxruntime
    from heimdall_evaluation.judging import judge_of
    from heimdall_export.benchmark import file_contender
    from heimdall_export.graph.quantize import KINDS, NothingToQuantize, quantize_model
    from heimdall_export.serving.metadata import PRECISION_KEY

    judge, model = judge_of(opened.data.validation), opened.file.path
    inputs: dict[str, Any] = {"features": sample.features, "arrivals": sample.arrivals}
    given = opened.file.metadata.get(PRECISION_KEY, "float32")
    yield file_contender(given, model, figures=judge(model))
    for kind in KINDS if given == "float32" else ():
        try:
            path = quantize_model(model, folder / f"{kind}.onnx", kind, **inputs)
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

    def run(network: Callable[..., object], n_threads: int) -> Callable[[Feed], object]:
        torch.set_num_threads(n_threads)
        return torch.inference_mode()(lambda feed: network(*map(torch.from_numpy, feed.values())))

    if config.checkpoint:
        network = exported_network(Trained.open(config.checkpoint[0]), opened.data)
        yield Contender(name="PyTorch eager", open=partial(run, network))
        if config.compile:
            yield Contender(name="torch.compile", open=partial(run, torch.compile(network)))


def _costs(files: Sequence[Contender]) -> Iterator[str]:
    """A table of the costs that do not depend on batches."""
    from heimdall_export.benchmark import THREADS, read_ms

    reads = "".join(f" read at {n} thread{'s' * (n > 1)} ms |" for n in THREADS)
    quality = "median error m | NLL | coverage 68 % | coverage 95 %"
    yield f"| contender | MB | load s | memory MB |{reads} {quality} |"
    yield "|---" * (8 + len(THREADS)) + "|"
    for one in files:
        size = one.size_bytes or 0
        read = " | ".join(f"{read_ms(size, n_threads):.2f}" for n_threads in THREADS)
        quality = "| | |"
        if figures := one.figures:
            quality = (
                f"{figures['error_m_median']:.0f} | {figures['nll']:.3f} | "
                f"{figures['coverage_68']:.1%} | {figures['coverage_95']:.1%}"
            )
        costs = f"{size / 1e6:.1f} | {one.load_s:.2f} | {one.memory_mb:.0f}"
        yield f"| {one.name} | {costs} | {read} | {quality} |"


def _publish(
    opened: OpenedModel, figures: Mapping[str, object], path: Path, connections: Connections
) -> None:
    """Add the figures to the model's sidecar and run."""
    from heimdall_export.object_store.upload import add_to_sidecar
    from heimdall_export.tracking.client import open_client, store_artifact

    client = connections.need_s3().client()
    print(f"sidecar     {add_to_sidecar(client, str(opened.uri), 'benchmark', figures)}")
    if run_id := opened.file.metadata.get("heimdall.run_id"):
        store = connections.artifact_store(of_mlflow=False)
        mlflow = open_client(connections.tracking_uri())
        store_artifact(mlflow, run_id, path, "benchmark", artifact_store=store)
        print(f"run         {run_id}, artifact benchmark/{path.name}")
