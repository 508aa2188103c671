"""The files that one model can be at several precisions, and the one that is worth serving.

A variant is judged by what it is for: errors in metres, the likelihood of the truth, and how often
the truth is within the ellipses. How far its tensors are from the model's decides nothing.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from heimdall_export.contract import ARRIVALS, INPUT
from heimdall_export.errors import ExportError
from heimdall_export.graph.quantize import KINDS, NothingToQuantize, quantize_model
from heimdall_export.model_files import model_size, remove_model
from heimdall_export.session import latencies, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from heimdall_export.graph.quantize import Kind

    Judge = Callable[[Path], Mapping[str, float]]

__all__ = [
    "PRECISIONS",
    "Choice",
    "Precision",
    "Sample",
    "Variant",
    "at_precision",
    "inputs_of",
    "is_faithful",
]

Precision = Literal["none", "fp16", "bf16", "int8", "int4", "auto"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LARGEST_ERROR_GROWTH = 0.01
"""Share by which a variant's median error may exceed the model's."""
LARGEST_COVERAGE_MOVE = 0.01
"""Of the share of truths within an ellipse, either way."""
AS_FAST = 1.05
"""Up to so many times the fastest one's latency counts as equally fast: then the size decides."""
_KEPT = (0.0, 0.1, 0.3)
"""Shares of products that int8 leaves in float32, tried in this order."""
_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Training features, float32 `(n, ...)`, and arrival times if the model takes them."""

    features: NDArray[np.float32]
    arrivals: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A file of the model, and what it is worth."""

    name: str
    path: Path
    size_bytes: int
    figures: Mapping[str, float]
    """What the judge says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The file to deliver, and why."""

    chosen: Variant
    tried: tuple[Variant, ...]
    """All of them, the float32 file first."""
    latency_ms: Mapping[str, float]
    """By variants' names: the median of one moment, of those that speed was asked of."""

    def told(self) -> dict[str, dict[str, float]]:
        """Figures by variants' names, for a sidecar or a run."""
        latency = {name: {"latency_ms": value} for name, value in self.latency_ms.items()}
        return {
            variant.name: {
                "size_bytes": float(variant.size_bytes),
                **variant.figures,
                **latency.get(variant.name, {}),
            }
            for variant in self.tried
        }


def at_precision(path: Path, precision: Precision, sample: Sample, judge: Judge) -> Choice:
    """The variant of a float32 model file that is to be delivered.

    `auto` is the fastest of those that are faithful. `int8` is that with the fewest products left
    in float32 which is faithful, or, if none is, that with the least median error. Files that
    were tried and not chosen are removed; the float32 file stays.

    Args:
        path: The float32 file, `<name>.onnx`; variants are written beside it.
        precision: What is wanted.
        sample: What integers are calibrated on.
        judge: Says of a file, on the validation part, the contract's names without their
            `val/`: `error_m_median`, `coverage_68` and `coverage_95` at least.

    Raises:
        ExportError: An unknown precision, a file that cannot be quantised, or no figures of the
            one that is asked for.
    """
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ExportError(f"there is no precision {precision!r}; give one of {known}")
    plain = Variant(name="none", path=path, size_bytes=model_size(path), figures=dict(judge(path)))
    made: list[Variant] = []
    chosen = None
    try:
        for kind in KINDS if precision == "auto" else [k for k in KINDS if k == precision]:
            try:
                made.extend(_made(plain, kind, sample, judge))
            except NothingToQuantize:
                if precision != "auto":
                    raise
        chosen, latency = _chosen(plain, made, precision, sample)
    finally:
        for variant in made:
            if variant is not chosen:
                remove_model(variant.path)
    return Choice(chosen=chosen, tried=(plain, *made), latency_ms=latency)


def inputs_of(sample: Sample) -> dict[str, NDArray[np.float32]]:
    """A sample's arrays by the names of the model's inputs."""
    further = {} if sample.arrivals is None else {ARRIVALS: sample.arrivals}
    return {INPUT: sample.features, **further}


def is_faithful(figures: Mapping[str, float], plain: Mapping[str, float]) -> bool:
    """Whether a variant's median error and coverage are as good as those of the float32 file."""
    most_m = (1 + LARGEST_ERROR_GROWTH) * plain["error_m_median"]
    moves = [abs(figures[name] - plain[name]) for name in ("coverage_68", "coverage_95")]
    still = all(move <= LARGEST_COVERAGE_MOVE + 1e-9 for move in moves)
    return figures["error_m_median"] <= most_m and still


def _chosen(
    plain: Variant, made: Sequence[Variant], precision: Precision, sample: Sample
) -> tuple[Variant, dict[str, float]]:
    """The file to deliver, and the latencies that were measured for it."""
    good = [variant for variant in made if is_faithful(variant.figures, plain.figures)]
    if precision == "auto":
        latency = _latency_ms([plain, *good], sample)
        return _fastest([plain, *good], latency), latency
    known = [variant for variant in made if math.isfinite(variant.figures["error_m_median"])]
    if made and not known:
        raise ExportError(
            f"the median error of {precision} on validation is no number, so nobody knows what "
            "it costs; take another precision, or look at the validation part"
        )
    return min(good or known or [plain], key=lambda one: one.figures["error_m_median"]), {}


def _made(plain: Variant, kind: Kind, sample: Sample, judge: Judge) -> Iterator[Variant]:
    for keep in _KEPT if kind == "int8" else _KEPT[:1]:
        name = f"{kind}-keep{100 * keep:.0f}" if keep else kind
        path = quantize_model(
            plain.path,
            plain.path.with_name(f"{plain.path.stem}.{name}.onnx"),
            kind,
            features=sample.features,
            arrivals=sample.arrivals,
            keep=keep,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(remove_model, path)
            figures = dict(judge(path))
            undo.pop_all()
        yield Variant(name=name, path=path, size_bytes=model_size(path), figures=figures)
        if is_faithful(figures, plain.figures):
            return


def _latency_ms(variants: Sequence[Variant], sample: Sample) -> dict[str, float]:
    """Medians of one moment, by the variants' names."""
    feed = {name: values[:1] for name, values in inputs_of(sample).items()}
    sessions = [open_session(variant.path) for variant in variants]
    calls = [partial(session.run, None, feed) for session in sessions]
    found = latencies(calls, seconds=_SECONDS)
    return {v.name: one.median_ms for v, one in zip(variants, found, strict=True)}


def _fastest(variants: Sequence[Variant], latency_ms: Mapping[str, float]) -> Variant:
    bound = AS_FAST * min(latency_ms.values())
    fast = [variant for variant in variants if latency_ms[variant.name] <= bound]
    return min(fast, key=lambda variant: variant.size_bytes)
