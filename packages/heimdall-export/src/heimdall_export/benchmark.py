"""How fast, how large and how hungry the files of a model are, side by side in one run.

All contenders are called in turns, so that other work on the machine slows all of them; figures
of two runs do not compare. What a file costs to load is measured in a process of its own, which has
nothing but ONNX Runtime. The floor under all of it is the time in which this machine reads a
file's weights from memory once, measured in the same run.
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
from heimdall_export.graph.variants import inputs_of
from heimdall_export.model_files import model_size
from heimdall_export.session import latencies, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heimdall_export.graph.variants import Sample

    Feed = Mapping[str, NDArray[np.float32]]
    Open = Callable[[int], Callable[[Feed], object]]

__all__ = [
    "BATCH_SIZES",
    "THREADS",
    "Contender",
    "Row",
    "as_json",
    "benchmark",
    "file_contender",
    "read_ms",
]

BATCH_SIZES = (1, 8, 32)
THREADS = (1, 2)
_CHILD = """
import json, sys, time
import numpy, onnxruntime
def peak_mb():
    # Not getrusage: what the parent took counts there.
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
    """Something that answers for a model."""

    name: str
    open: Open
    """Of a number of threads makes what is called with a batch."""
    size_bytes: int | None = None
    load_s: float | None = None
    memory_mb: float | None = None
    """Most that loading and one answer take, beyond what the libraries take."""
    figures: Mapping[str, float] | None = None
    """What it is worth on held-out sessions, by the contract's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender at one batch size and number of threads."""

    name: str
    n_threads: int
    batch_size: int
    median_ms: float
    p95_ms: float
    per_second: float
    """Moments answered in a second, at the median."""
    times_faster: float
    """Than the first contender in the same turns."""


def file_contender(
    name: str,
    path: Path,
    *,
    provider: str = "CPUExecutionProvider",
    figures: Mapping[str, float] | None = None,
) -> Contender:
    """A model file with one of ONNX Runtime's execution providers.

    Raises:
        ExportError: It cannot be loaded there.
    """
    costs = _costs_in_a_child(path, provider)

    def opened(n_threads: int) -> Callable[[Feed], object]:
        session = open_session(path, n_threads=n_threads, provider=provider)
        return partial(session.run, None)

    return Contender(
        name=name,
        open=opened,
        size_bytes=model_size(path),
        load_s=costs["load_s"],
        memory_mb=costs["memory_mb"],
        figures=figures,
    )


def _costs_in_a_child(path: Path, provider: str) -> dict[str, float]:
    child = subprocess.run(  # noqa: S603 - our own script, no shell
        [sys.executable, "-c", _CHILD, str(path), provider],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        words = child.stderr.strip()[-500:]
        raise ExportError(f"{path} cannot be loaded with {provider}: {words}")
    costs: dict[str, float] = json.loads(child.stdout)
    return costs


def benchmark(
    contenders: Sequence[Contender],
    sample: Sample,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    threads: Sequence[int] = THREADS,
    seconds: float = 5.0,
) -> Iterator[Row]:
    """Measure contenders in turns, at every batch size and number of threads.

    Args:
        contenders: The first is what the others are compared with.
        sample: Real inputs; repeated where a batch wants more.
        batch_sizes: Moments in one call.
        threads: Of one call.
        seconds: For all contenders together, at each batch size and number of threads.
    """
    for n_threads in threads:
        answers = [contender.open(n_threads) for contender in contenders]
        for batch_size in batch_sizes:
            chosen = np.arange(batch_size) % len(sample.features)
            feed = {name: values[chosen] for name, values in inputs_of(sample).items()}
            found = latencies([partial(answer, feed) for answer in answers], seconds=seconds)
            for contender, one in zip(contenders, found, strict=True):
                yield Row(
                    name=contender.name,
                    n_threads=n_threads,
                    batch_size=batch_size,
                    median_ms=one.median_ms,
                    p95_ms=one.p95_ms,
                    per_second=1000 * batch_size / one.median_ms,
                    times_faster=found[0].median_ms / one.median_ms,
                )


def read_ms(size_bytes: int, n_threads: int) -> float:
    """Milliseconds in which so many bytes are read once from memory; the least of five times."""
    parts = np.array_split(np.ones(max(size_bytes // 8, n_threads)), n_threads)
    taken = []
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.sum, parts))
            taken.append(1000 * (time.perf_counter() - start))
    return min(taken)


def as_json(contenders: Sequence[Contender], rows: Sequence[Row]) -> dict[str, object]:
    """Everything that was measured, for a sidecar or an artifact."""
    return {
        "contenders": [
            {
                "name": one.name,
                "size_bytes": one.size_bytes,
                "load_s": one.load_s,
                "memory_mb": one.memory_mb,
                "figures": None if one.figures is None else dict(one.figures),
            }
            for one in contenders
        ],
        "rows": [asdict(row) for row in rows],
    }
