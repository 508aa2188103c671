"""Metrics of model files on validation sessions, to choose the precision that is delivered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from heimdall_export.contract import ARRIVALS, CORRELATIONS, INPUT, OUTPUTS
from heimdall_export.session import Sample, open_session, run_in_batches
from heimdall_models import localization_metrics

from heimdall_evaluation.served import posteriors_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_export.graph.variants import Choice, Judge
    from numpy.typing import NDArray

    from heimdall_evaluation.dataset import Dataset

N_CALIBRATED = 64
"""Training sessions that integers are calibrated on, at most."""
N_JUDGED = 2000
"""Validation sessions that variants are judged on, at most."""


def calibration_sample(training: Dataset) -> Sample:
    """Inputs to calibrate integers on; augmentation would widen their range."""
    features, arrivals, _ = _stacked(training, N_CALIBRATED)
    return Sample(features, arrivals)


def judge_of(validation: Dataset) -> Judge:
    """Return a function from a model file to its metrics on validation sessions."""
    held_out = _stacked(validation, N_JUDGED)
    return lambda path: file_metrics(path, *held_out)


def file_metrics(
    path: Path,
    features: NDArray[np.float32],
    arrivals: NDArray[np.float32] | None,
    truth_deg: NDArray[np.float64],
) -> dict[str, float]:
    """The contract's metrics of a model file, without their `val/`.

    All are NaN if the file's answer to any session is not finite. Features are `(n, receivers,
    n_mels, n_frames)` in dB, times of arrival `(n, receivers, 5)`, truths `(n, 2)`, latitude and
    longitude.
    """
    inputs = {INPUT: features} | ({} if arrivals is None else {ARRIVALS: arrivals})
    outputs = run_in_batches(open_session(path), inputs, batch_size=32)
    if not all(np.isfinite(values).all() for values in outputs.values()):
        figures = ("error_m_median", "nll", "coverage_68", "coverage_95")
        return dict.fromkeys(figures, math.nan)
    position_deg, sigma_m = (outputs[name] for name in OUTPUTS)
    correlation = outputs.get(CORRELATIONS, 0.0)
    return localization_metrics(
        position_deg, sigma_m, truth_deg, correlation, posteriors_of(outputs)
    )


def choice_lines(choice: Choice) -> list[str]:
    """A line of figures for each variant that was tried, and the one that was chosen."""
    lines = [
        f"{variant.name:12s} {variant.size_bytes / 1e6:8.1f} MB   "
        f"{choice.latency_ms.get(variant.name, math.nan):7.1f} ms   "
        f"median error {variant.figures['error_m_median']:.0f} m, "
        f"coverage {variant.figures['coverage_68']:.1%} and {variant.figures['coverage_95']:.1%}"
        for variant in choice.tried
    ]
    return [*lines, f"delivered: {choice.chosen.name}"]


def choice_metrics(choice: Choice) -> Mapping[str, float]:
    """Figures of every variant that was tried, named for a run and a sidecar."""
    return {
        f"export/{name}/{figure}": value
        for name, figures in choice.figures().items()
        for figure, value in figures.items()
    }


def _stacked(
    dataset: Dataset, most: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float64]]:
    """Features, times of arrival if they are measured, and truths of the first sessions."""
    samples = [dataset[index] for index in range(min(len(dataset), most))]
    return (
        np.stack([sample["features"] for sample in samples]),
        None if dataset.arrivals is None else np.stack([s["arrivals"] for s in samples]),
        np.stack([sample["position_deg"] for sample in samples]),
    )
