"""Speed, size and memory of a model's files, measured side by side.

All contenders are called in turns, so that other work on the machine slows all of them alike;
figures of two runs do not compare. The cost of loading a file is measured in a process of its own
with nothing but ONNX Runtime. `read_ms` is a lower bound of all latencies: the time in which this
machine reads a file's weights from memory once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from heimdall_export.errors import ExportError
from heimdall_export.model_files import model_size
from heimdall_export.session import latencies_ms, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heimdall_export.session import Sample

    Feed = Mapping[str, NDArray[np.float32]]

BATCH_SIZES = (1, 8, 32)
THREADS = (1, 2)
_CHILD = """
import json, os, sys, time
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
def peak_mb():
    # Not getrusage, which includes what the parent took.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
before, start = peak_mb(), time.perf_counter()
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=[sys.argv[2]])
load_s = time.perf_counter() - start
feed = {
    end.name: numpy.zeros((1, *end.shape[1:]), numpy.float32) for end in session.get_inputs()
}
session.run(None, feed)
print(json.dumps({"load_s": load_s, "memory_mb": peak_mb() - before}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to run a model, and what it costs to have it ready."""

    name: str
    open: Callable[[int], Callable[[Feed], object]]
    """Factory: number of threads to a callable that runs one batch."""
    size_bytes: int | None = None
    load_s: float | None = None
    memory_mb: float | None = None
    """Peak memory of loading and one answer, beyond that of the libraries."""
    figures: Mapping[str, float] | None = None
    """Metrics on held-out sessions, by the contract's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of one contender at one batch size and number of threads."""

    name: str
    n_threads: int
    batch_size: int
    median_ms: float
    p95_ms: float
    per_second: float
    """Samples answered in a second, at the median."""
    times_faster: float
    """Compared with the first contender in the same turns."""


def file_contender(
    name: str,
    path: Path,
    *,
    provider: str = "CPUExecutionProvider",
    figures: Mapping[str, float] | None = None,
) -> Contender:
    """A model file run by one of ONNX Runtime's providers; `ExportError` if it cannot load it."""
    command = [sys.executable, "-c", _CHILD, str(path), provider]
    child = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if child.returncode != 0:
        raise ExportError(f"{provider} cannot load {path}: {child.stderr.strip()[-500:]}")

    def opened(n_threads: int) -> Callable[[Feed], object]:
        session = open_session(path, n_threads=n_threads, provider=provider)
        return partial(session.run, None)

    costs = json.loads(child.stdout)
    return Contender(name=name, open=opened, size_bytes=model_size(path), figures=figures, **costs)


def benchmark(
    contenders: Sequence[Contender],
    sample: Sample,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    threads: Sequence[int] = THREADS,
    seconds: float = 5.0,
) -> Iterator[Row]:
    """Measure contenders in turns, at every batch size and number of threads of one call.

    The others are compared with the first. The sample has real inputs, repeated to fill a batch;
    `seconds` is the time for all contenders together at each combination.
    """
    for n_threads in threads:
        opened = [contender.open(n_threads) for contender in contenders]
        for batch_size in batch_sizes:
            chosen = np.arange(batch_size) % len(sample.features)
            feed = {name: values[chosen] for name, values in sample.inputs.items()}
            found = latencies_ms([partial(call, feed) for call in opened], seconds=seconds)
            for contender, (median_ms, p95_ms) in zip(contenders, found, strict=True):
                yield Row(
                    name=contender.name,
                    n_threads=n_threads,
                    batch_size=batch_size,
                    median_ms=median_ms,
                    p95_ms=p95_ms,
                    per_second=1000 * batch_size / median_ms,
                    times_faster=found[0][0] / median_ms,
                )


def read_ms(size_bytes: int, n_threads: int) -> float:
    """Milliseconds to read so many bytes from memory once; the least of five attempts."""
    parts = np.array_split(np.ones(max(size_bytes // 8, n_threads)), n_threads)
    taken = []
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.sum, parts))
            taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


def as_json(contenders: Sequence[Contender], rows: Sequence[Row]) -> dict[str, object]:
    """All figures as JSON values, for a sidecar or an artifact."""
    keys = ("name", "size_bytes", "load_s", "memory_mb", "figures")
    return {
        "contenders": [{key: getattr(one, key) for key in keys} for one in contenders],
        "rows": [asdict(row) for row in rows],
    }
