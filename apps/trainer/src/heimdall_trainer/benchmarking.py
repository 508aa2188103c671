"""A model's files at every precision, beside PyTorch: how fast, how large, how good."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import torch
from heimdall_export.model_benchmark import (
    BATCH_SIZES,
    THREADS,
    Contender,
    as_json,
    benchmark,
    file_contender,
    read_ms,
)
from heimdall_export.onnx_session import open_session
from heimdall_export.quantization import KINDS, NothingToQuantize, quantize_model

from heimdall_trainer.exported_network import exported_network
from heimdall_trainer.model_file import with_features_of
from heimdall_trainer.precision import calibration, judge_of
from heimdall_trainer.training_data import load_training_data
from heimdall_trainer.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from heimdall_export.model_benchmark import Row
    from heimdall_export.variants import Judge, Sample
    from numpy.typing import NDArray

    from heimdall_trainer.connections import Connections
    from heimdall_trainer.training_config import TrainingConfig

    Feed = Mapping[str, NDArray[np.float32]]

__all__ = ["benchmark_file"]

_PROVIDERS = ("OpenVINOExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider")
"""Tried besides, where this ONNX Runtime has them."""


def benchmark_file(
    model: Path,
    config: TrainingConfig,
    connections: Connections,
    *,
    seconds: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    output: Path | None = None,
) -> Iterator[str]:
    """Measure a model file and its variants; yields the lines of a report as they are known.

    Args:
        model: A float32 file that `heimdall train` exported.
        config: The split, and with `checkpoint` the network that PyTorch runs.
        connections: Where the sessions are.
        seconds: For all contenders together, at each batch size and number of threads.
        batch_sizes: Sessions in one call.
        output: Where the figures go as JSON; beside the model when None.

    Raises:
        TrainerError, ExportError: No such model, or data that do not fit it.
    """
    metadata = open_session(model).get_modelmeta().custom_metadata_map
    data = load_training_data(with_features_of(metadata, config), connections)
    sample = calibration(data)
    with tempfile.TemporaryDirectory(prefix="heimdall-benchmark-") as folder:
        files = [*_files(model, Path(folder), sample, judge_of(data))]
        networks = []
        if config.checkpoint:
            network = exported_network(config.checkpoint[0], data)
            networks = [*_networks(network, compiled=config.compile)]
        contenders = [*networks, *files]
        yield from _costs(contenders)
        rows: list[Row] = []
        yield "\n| contender | threads | batch | median ms | p95 ms | per second | times faster |"
        yield "|---|---|---|---|---|---|---|"
        for row in benchmark(contenders, sample, batch_sizes=batch_sizes, seconds=seconds):
            rows.append(row)
            yield (
                f"| {row.name} | {row.n_threads} | {row.batch_size} | {row.median_ms:.2f} | "
                f"{row.p95_ms:.2f} | {row.per_second:.0f} | {row.times_faster:.2f} |"
            )
        target = output or model.with_suffix(".benchmark.json")
        write_whole(target, json.dumps(as_json(contenders, rows), indent=2))
        yield f"\nfigures     {target}"


def _files(model: Path, folder: Path, sample: Sample, judge: Judge) -> Iterator[Contender]:
    """The file and its variants on the CPU, and the file on what else there is."""
    yield file_contender("float32", model, figures=judge(model))
    for kind in KINDS:
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
            yield file_contender(f"float32 on {name}", model, provider=provider)


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
