"""ONNX Runtime, and what it says when it refuses a file.

How long calls take, measured in turns, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from heimdall_export.contract import ARRIVALS, INPUT, OUTPUTS, TIMED_OUTPUTS
from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

__all__ = ["Latency", "latencies", "open_session", "run_in_batches"]


_CALLS = 5
"""In a row, before the next one has its turn."""
_PAUSE_S = 0.02
"""Before a turn: the threads of the one before spin for a while, on the same cores."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one call, in milliseconds."""

    median_ms: float
    p95_ms: float


def latencies(calls: Sequence[Callable[[], object]], *, seconds: float) -> tuple[Latency, ...]:
    """The times of each of some calls, measured for so many seconds together, once at least."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while not times[-1] or time.perf_counter() < end:
        for call, taken in zip(calls, times, strict=True):
            time.sleep(_PAUSE_S)
            call()
            taken.extend(_elapsed_ms(call) for _ in range(_CALLS))
    return tuple(
        Latency(float(np.median(taken)), float(np.percentile(taken, 95))) for taken in times
    )


def _elapsed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


_ERRORS_ONLY = 3


def open_session(
    model: str | os.PathLike[str] | bytes,
    *,
    n_threads: int | None = None,
    provider: str = "CPUExecutionProvider",
) -> InferenceSession:
    """A session for one of our model files.

    Args:
        model: A path, or the file's contents.
        n_threads: Of one call; None leaves it to ONNX Runtime.
        provider: What computes, one of `onnxruntime.get_available_providers()`.

    Raises:
        ExportError: There is no file, it is not an ONNX file that this ONNX Runtime can run, or
            it has other inputs and outputs than our models.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    name = "the model" if isinstance(model, bytes) else str(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if n_threads is not None:
        options.intra_op_num_threads = n_threads
    try:
        contents = model if isinstance(model, bytes) else str(_existing(Path(model)))
        session = onnxruntime.InferenceSession(contents, options, providers=[provider])
    except (
        refusals.Fail,
        refusals.InvalidArgument,
        refusals.InvalidGraph,
        refusals.InvalidProtobuf,
        refusals.NotImplemented,
        refusals.RuntimeException,
        UnicodeDecodeError,  # a name in a damaged file
    ) as error:
        said = " ".join(str(error).split())
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {name}: {said}"
        ) from error
    _require_ends(session, name)
    return session


def run_in_batches(
    session: InferenceSession,
    inputs: Mapping[str, NDArray[Any]],
    *,
    batch_size: int,
    outputs: Sequence[str] | None = None,
) -> dict[str, NDArray[Any]]:
    """Run a model on many rows, some in one call.

    Args:
        session: From `open_session`.
        inputs: By name, `(n, ...)` each, n at least 1.
        batch_size: Rows in one call.
        outputs: Names of the wanted outputs; all of them when None.

    Returns:
        The outputs by name, `(n, ...)` each.
    """
    names = list(outputs or [end.name for end in session.get_outputs()])
    n = len(next(iter(inputs.values())))
    parts = [
        session.run(names, {key: rows[at : at + batch_size] for key, rows in inputs.items()})
        for at in range(0, n, batch_size)
    ]
    return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ExportError(f"there is no model file at {path}")
    return path


def _require_ends(session: InferenceSession, name: str) -> None:
    inputs = [end.name for end in session.get_inputs()]
    outputs = [end.name for end in session.get_outputs()]
    if inputs == [INPUT, ARRIVALS]:
        known = {*OUTPUTS, *TIMED_OUTPUTS} <= set(outputs)
    else:
        known = inputs == [INPUT] and set(OUTPUTS) <= set(outputs)
    if not known:
        raise ExportError(
            f"{name} takes {inputs} and gives {outputs}; a model of ours takes [{INPUT!r}] "
            f"and gives {list(OUTPUTS)}, or takes {ARRIVALS!r} too and gives "
            f"{list(TIMED_OUTPUTS)} besides"
        )
