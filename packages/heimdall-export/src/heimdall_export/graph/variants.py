"""Files of one model at several precisions, and the choice of the one to serve.

A variant is judged by its errors in metres and by how often the truth is within its ellipses, not
by how far its tensors are from the model's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from heimdall_export.errors import ExportError
from heimdall_export.graph.quantize import KINDS, NothingToQuantize, quantize_model
from heimdall_export.model_files import model_size, remove_model
from heimdall_export.session import latencies_ms, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from heimdall_export.graph.quantize import Kind
    from heimdall_export.session import Sample

    Judge = Callable[[Path], Mapping[str, float]]

Precision = Literal["none", "fp16", "bf16", "int8", "int4", "auto"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_LARGEST_ERROR_GROWTH = 0.01
"""Share by which a variant's median error may exceed the model's."""
_LARGEST_COVERAGE_MOVE = 0.01
"""Change of the share of truths within an ellipse, either way."""
_AS_FAST = 1.05
"""Up to this multiple of the least latency counts as equally fast; then the size decides."""
_KEPT = (0.0, 0.1, 0.3)
"""Shares of products that int8 leaves in float32, tried in this order."""
_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A file of the model with its metrics, as the judge measured them."""

    name: str
    path: Path
    size_bytes: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The file to deliver, and the reasons."""

    chosen: Variant
    tried: tuple[Variant, ...]
    """All of them, the float32 file first."""
    latency_ms: Mapping[str, float]
    """Median for one sample by variants' names, of those whose speed was compared."""

    def figures(self) -> dict[str, dict[str, float]]:
        """Figures by variants' names, for a sidecar or a run."""
        found = {v.name: {"size_bytes": float(v.size_bytes), **v.figures} for v in self.tried}
        for name, latency_ms in self.latency_ms.items():
            found[name]["latency_ms"] = latency_ms
        return found


def at_precision(path: Path, precision: Precision, sample: Sample, judge: Judge) -> Choice:
    """Choose the variant of a float32 model file to deliver.

    `auto` is the fastest of the faithful ones. `int8` is the one with the fewest products left in
    float32 that is faithful or, if none is, the one with the least median error. Files that were
    tried and not chosen are removed; the float32 file stays.

    Args:
        path: The float32 file, `<name>.onnx`; variants are written beside it.
        precision: One of `PRECISIONS`.
        sample: Training features to calibrate integers on.
        judge: Measures a file on the validation part: the contract's names without their `val/`,
            `error_m_median`, `coverage_68` and `coverage_95` at least.

    Raises:
        ExportError: An unknown precision, a file that cannot be quantised, or a median error that
            is not finite at the requested precision.
    """
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ExportError(f"unknown precision {precision!r}; use one of {known}")
    plain = Variant(name="none", path=path, size_bytes=model_size(path), figures=dict(judge(path)))
    made: list[Variant] = []
    chosen = None
    try:
        for kind in KINDS if precision == "auto" else [k for k in KINDS if k == precision]:
            try:
                made.extend(_variants(plain, kind, sample, judge))
            except NothingToQuantize:
                if precision != "auto":
                    raise
        chosen, latency_ms = _chosen(plain, made, precision, sample)
    finally:
        for variant in made:
            if variant is not chosen:
                remove_model(variant.path)
    return Choice(chosen=chosen, tried=(plain, *made), latency_ms=latency_ms)


def is_faithful(figures: Mapping[str, float], plain: Mapping[str, float]) -> bool:
    """True if a variant's median error and coverage are as good as those of the float32 file."""
    most_m = (1 + _LARGEST_ERROR_GROWTH) * plain["error_m_median"]
    moves = [abs(figures[name] - plain[name]) for name in ("coverage_68", "coverage_95")]
    still = all(move <= _LARGEST_COVERAGE_MOVE + 1e-9 for move in moves)
    return figures["error_m_median"] <= most_m and still


def fastest(variants: Sequence[Variant], latency_ms: Mapping[str, float]) -> Variant:
    """The smallest of the variants whose latency, given by name, is within 5 % of the least."""
    bound = _AS_FAST * min(latency_ms.values())
    fast = [variant for variant in variants if latency_ms[variant.name] <= bound]
    return min(fast, key=lambda variant: variant.size_bytes)


def _variants(plain: Variant, kind: Kind, sample: Sample, judge: Judge) -> Iterator[Variant]:
    for keep in _KEPT if kind == "int8" else _KEPT[:1]:
        name = f"{kind}-keep{100 * keep:.0f}" if keep else kind
        target = plain.path.with_name(f"{plain.path.stem}.{name}.onnx")
        features, arrivals = sample.features, sample.arrivals
        path = quantize_model(
            plain.path, target, kind, features=features, arrivals=arrivals, keep=keep
        )
        try:
            figures = dict(judge(path))
        except BaseException:
            remove_model(path)
            raise
        yield Variant(name=name, path=path, size_bytes=model_size(path), figures=figures)
        if is_faithful(figures, plain.figures):
            return


def _chosen(
    plain: Variant, made: Sequence[Variant], precision: Precision, sample: Sample
) -> tuple[Variant, dict[str, float]]:
    """The file to deliver, and the latencies that were measured for it."""
    good = [variant for variant in made if is_faithful(variant.figures, plain.figures)]
    if precision != "auto":
        known = [variant for variant in made if math.isfinite(variant.figures["error_m_median"])]
        if made and not known:
            raise ExportError(
                f"the median error of {precision} on the validation part is not finite; use "
                "another precision, or look at the validation part"
            )
        return min(good or known or [plain], key=lambda one: one.figures["error_m_median"]), {}
    rivals = [plain, *good]
    feed = {name: values[:1] for name, values in sample.inputs.items()}
    calls = [partial(open_session(variant.path).run, None, feed) for variant in rivals]
    found = latencies_ms(calls, seconds=_SECONDS)
    latency_ms = {variant.name: median for variant, (median, _) in zip(rivals, found, strict=True)}
    return fastest(rivals, latency_ms), latency_ms
