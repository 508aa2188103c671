"""ONNX Runtime sessions of our model files: opened, run in batches, and timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heimdall_export.contract import ARRIVALS, INPUT, MIXTURE_OUTPUTS, OUTPUTS, TIMED_OUTPUTS
from heimdall_export.errors import ExportError
from heimdall_export.model_files import require_small_metadata

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    Arrays = Mapping[str, NDArray[np.float32]]

_CALLS_IN_A_ROW = 5
_PAUSE_S = 0.02
"""Before each turn, because the threads of the previous callable still spin for a while."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Features in dB, float32 `(n, receivers, n_mels, n_frames)`, and arrival times, if any."""

    features: NDArray[np.float32]
    arrivals: NDArray[np.float32] | None = None

    @property
    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """The arrays by the names of the model's inputs."""
        given = {INPUT: self.features}
        return given if self.arrivals is None else given | {ARRIVALS: self.arrivals}


def open_session(
    model: str | os.PathLike[str] | bytes,
    *,
    n_threads: int | None = None,
    provider: str = "CPUExecutionProvider",
) -> InferenceSession:
    """Open one of our model files.

    Args:
        model: A path, or the file's contents.
        n_threads: Threads of one call; None leaves it to ONNX Runtime.
        provider: One of `onnxruntime.get_available_providers()`.

    Raises:
        ExportError: There is no file, it is not an ONNX file that this ONNX Runtime can run, or
            its inputs and outputs are not those of our models.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

    contents = model if isinstance(model, bytes) else str(model)
    name = "the model" if isinstance(contents, bytes) else contents
    if isinstance(contents, str) and not Path(contents).is_file():
        raise ExportError(f"no model file at {name}")
    try:
        require_small_metadata(contents)
    except OSError as error:
        raise ExportError(f"cannot read the model file {name}: {error.strerror}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    # Processors without VNNI add products of unsigned and signed bytes in 16 bits, which overflow.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if n_threads is not None:
        options.intra_op_num_threads = n_threads
    refusals = (ort.Fail, ort.InvalidArgument, ort.InvalidGraph, ort.InvalidProtobuf)
    try:
        session = onnxruntime.InferenceSession(contents, options, providers=[provider])
    except (*refusals, ort.NotImplemented, ort.RuntimeException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {name}: {reason}"
        ) from error
    inputs = [end.name for end in session.get_inputs()]
    outputs = [end.name for end in session.get_outputs()]
    required = {*OUTPUTS, *TIMED_OUTPUTS} if ARRIVALS in inputs else {*OUTPUTS}
    if inputs not in ([INPUT], [INPUT, ARRIVALS]) or not required <= set(outputs):
        raise ExportError(
            f"{name} has inputs {inputs} and outputs {outputs}; our models have the input "
            f"{INPUT!r} and the outputs {list(OUTPUTS)}, with {ARRIVALS!r} also "
            f"{list(TIMED_OUTPUTS)}"
        )
    return session


def known_outputs(session: InferenceSession) -> list[str]:
    """Names of a model's outputs that this version knows, in the contract's order."""
    given = {end.name for end in session.get_outputs()}
    return [name for name in (*OUTPUTS, *TIMED_OUTPUTS, *MIXTURE_OUTPUTS) if name in given]


def run_batches(
    session: InferenceSession, inputs: Arrays, outputs: Sequence[str], batch_size: int
) -> Iterator[list[NDArray[np.float32]]]:
    """Run a model over samples; yield the named outputs of each batch, the last may be small.

    The inputs are arrays by name, the samples along the first axis.
    """
    for start in range(0, len(next(iter(inputs.values()))), batch_size):
        feed = {
            name: np.ascontiguousarray(values[start : start + batch_size], np.float32)
            for name, values in inputs.items()
        }
        yield session.run(outputs, feed)


def run_in_batches(
    session: InferenceSession,
    inputs: Arrays,
    *,
    batch_size: int,
    outputs: Sequence[str] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """As `run_batches`, of at least one sample; returns the outputs, by default all, by name."""
    names = list(outputs or [end.name for end in session.get_outputs()])
    batches = list(run_batches(session, inputs, names, batch_size))
    return dict(zip(names, map(np.concatenate, zip(*batches, strict=True)), strict=True))


def latencies_ms(
    calls: Sequence[Callable[[], object]], *, seconds: float
) -> list[tuple[float, float]]:
    """Median and 95th percentile of each callable's duration, in milliseconds.

    The callables are called in turns, so that a busy machine slows all of them alike. `seconds`
    is the time for all of them together; each has one turn at least.
    """
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while not times[-1] or time.perf_counter() < end:
        for call, taken in zip(calls, times, strict=True):
            time.sleep(_PAUSE_S)
            call()
            for _ in range(_CALLS_IN_A_ROW):
                start = time.perf_counter()
                call()
                taken.append(1000 * (time.perf_counter() - start))
    return [(float(np.median(taken)), float(np.percentile(taken, 95))) for taken in times]
