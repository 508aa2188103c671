"""A model's files at every precision, beside PyTorch: how fast, how large, how good."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import torch
from heimdall_evaluation.judging import N_CALIBRATED, calibration_sample, judge_of
from heimdall_export.atomic import write_whole
from heimdall_export.benchmark import (
    BATCH_SIZES,
    THREADS,
    Contender,
    as_json,
    benchmark,
    file_contender,
    read_ms,
)
from heimdall_export.graph.quantize import KINDS, PRECISION_KEY, NothingToQuantize, quantize_model
from heimdall_export.registry.sidecar import add_artifact, add_to_sidecar
from heimdall_models.training.resume import exported_network

from heimdall_trainer.models import file_name, is_address, opened_model, stores_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from heimdall_export.benchmark import Row
    from heimdall_export.graph.variants import Sample
    from numpy.typing import NDArray

    from heimdall_trainer.config import TrainingConfig
    from heimdall_trainer.connections import Connections
    from heimdall_trainer.models import OpenedModel

    Feed = Mapping[str, NDArray[np.float32]]

__all__ = ["benchmark_file"]

_PROVIDERS = ("OpenVINOExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider")
"""Tried besides, where this ONNX Runtime has them."""
_HEADER = (
    "\n| contender | threads | batch | median ms | p95 ms | per second | times faster |",
    "|---|---|---|---|---|---|---|",
)


def benchmark_file(
    model: str | Path,
    config: TrainingConfig,
    connections: Connections,
    *,
    seconds: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    output: Path | None = None,
) -> Iterator[str]:
    """Measure a model and its variants; yields the lines of a report as they are known.

    What is measured of a model in the object store is added to its sidecar, and to its run.

    Args:
        model: What `opened_model` takes. A file that is not of float32 is measured alone.
        config: The split, and with `checkpoint` the network that PyTorch runs.
        connections: Where the sessions are.
        seconds: For all contenders together, at each batch size and number of threads.
        batch_sizes: Sessions in one call.
        output: Where the figures go as JSON; when None beside the model, or, of one that is no
            file here, in `benchmarks` of the state directory.

    Raises:
        TrainerError, ExportError: No such model, or data that do not fit it.
    """
    target = output or _beside(str(model), connections)
    with opened_model(str(model), config, connections) as opened:
        train = opened.data.train
        sample = calibration_sample(train.subset(train.sessions[:N_CALIBRATED]))
        with tempfile.TemporaryDirectory(prefix="heimdall-benchmark-") as folder:
            files = [*_files(opened, Path(folder), sample)]
            networks = []
            if config.checkpoint:
                network = exported_network(config.checkpoint[0], opened.data)
                networks = [*_networks(network, compiled=config.compile)]
            contenders = [*networks, *files]
            yield from _costs(contenders)
            rows: list[Row] = []
            yield from _HEADER
            for row in benchmark(contenders, sample, batch_sizes=batch_sizes, seconds=seconds):
                rows.append(row)
                yield _line(row)
        figures = as_json(contenders, rows) | {"machine": _machine()}
        write_whole(target, json.dumps(figures, indent=2))
        yield f"\nfigures     {target}"
        if opened.uri:
            yield from _published(opened, figures, target, connections)


def _line(row: Row) -> str:
    return (
        f"| {row.name} | {row.n_threads} | {row.batch_size} | {row.median_ms:.2f} | "
        f"{row.p95_ms:.2f} | {row.per_second:.0f} | {row.times_faster:.2f} |"
    )


def _beside(model: str, connections: Connections) -> Path:
    if not is_address(model):
        return Path(model).with_suffix(".benchmark.json")
    folder = connections.state_directory() / "benchmarks"
    folder.mkdir(exist_ok=True)
    return folder / f"{file_name(model).removesuffix('.onnx')}.benchmark.json"


def _machine() -> dict[str, object]:
    """Figures of two machines do not compare; these say which it was."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }


def _published(
    opened: OpenedModel, figures: Mapping[str, object], path: Path, connections: Connections
) -> Iterator[str]:
    """Keep the figures where the model is."""
    client = connections.need_s3().client()
    yield f"sidecar     {add_to_sidecar(client, str(opened.uri), 'benchmark', figures)}"
    run_id = opened.file.metadata.get("heimdall.run_id")
    if run_id:
        store = stores_of(connections).s3
        add_artifact(connections.tracking_uri(), run_id, path, "benchmark", artifact_store=store)
        yield f"run         {run_id}, artifact benchmark/{path.name}"


def _files(opened: OpenedModel, folder: Path, sample: Sample) -> Iterator[Contender]:
    """The file and its variants on the CPU, and the file on what else there is."""
    judge, model = judge_of(opened.data.validation), opened.file.path
    given = opened.file.metadata.get(PRECISION_KEY, "float32")
    yield file_contender(given, model, figures=judge(model))
    for kind in KINDS if given == "float32" else ():
        try:
            path = quantize_model(
                model,
                folder / f"{kind}.onnx",
                kind,
                features=sample.features,
                arrivals=sample.arrivals,
            )
        except NothingToQuantize:
            continue
        yield file_contender(kind, path, figures=judge(path))
    for provider in _PROVIDERS:
        if provider in onnxruntime.get_available_providers():
            name = provider.removesuffix("ExecutionProvider")
            yield file_contender(f"{given} on {name}", model, provider=provider)


def _networks(network: torch.nn.Module, *, compiled: bool) -> Iterator[Contender]:
    yield Contender(name="PyTorch eager", open=_opened(network))
    if compiled:
        yield Contender(name="torch.compile", open=_opened(torch.compile(network)))


def _opened(
    network: Callable[..., object],
) -> Callable[[int], Callable[[Feed], object]]:
    def opened(n_threads: int) -> Callable[[Feed], object]:
        torch.set_num_threads(n_threads)
        return answer

    @torch.inference_mode()
    def answer(feed: Feed) -> object:
        return network(*map(torch.from_numpy, feed.values()))

    return opened


def _costs(contenders: Sequence[Contender]) -> Iterator[str]:
    """A table of what does not depend on batches."""
    reads = "".join(f" read at {n} thread{'s' * (n > 1)} ms |" for n in THREADS)
    yield (
        f"| contender | MB | load s | memory MB |{reads} median error m | NLL | "
        "coverage 68 % | coverage 95 % |"
    )
    yield "|---" * (8 + len(THREADS)) + "|"
    for one in contenders:
        if one.size_bytes is None or one.load_s is None or one.memory_mb is None:
            continue
        size = one.size_bytes
        read = " | ".join(f"{read_ms(size, n_threads):.2f}" for n_threads in THREADS)
        yield (
            f"| {one.name} | {size / 1e6:.1f} | {one.load_s:.2f} | {one.memory_mb:.0f} | "
            f"{read} | {_quality(one.figures)} |"
        )


def _quality(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return "| | |"
    return (
        f"{figures['error_m_median']:.0f} | {figures['nll']:.3f} | "
        f"{figures['coverage_68']:.1%} | {figures['coverage_95']:.1%}"
    )
