"""At which precision a model is delivered, judged on the validation part in metres."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np
from heimdall_export.contract import ARRIVALS, INPUT
from heimdall_export.graph.variants import Sample, at_precision
from heimdall_export.session import open_session
from heimdall_models import localization_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heimdall_data import HeimdallDataset
    from heimdall_export.graph.variants import Choice, Judge, Precision
    from heimdall_trainer.data import TrainingData
    from numpy.typing import NDArray

__all__ = ["calibration", "chosen_precision", "judge_of", "metrics_of", "told"]

LOGGER = logging.getLogger(__name__)
N_CALIBRATED = 64
"""Training sessions that integers are calibrated on, at most."""
N_JUDGED = 2000
"""Validation sessions that variants are judged on, at most."""
_BATCH = 32
_FIGURES = ("error_m_median", "nll", "coverage_68", "coverage_95")


def chosen_precision(path: Path, data: TrainingData, precision: Precision) -> Choice:
    """What to deliver of an exported file, and what everything that was tried is worth.

    Raises:
        ExportError: The model cannot be had at this precision.
    """
    choice = at_precision(path, precision, calibration(data), judge_of(data))
    for line in told(choice):
        LOGGER.info("%s", line)
    return choice


def calibration(data: TrainingData) -> Sample:
    """What integers are calibrated on: training sessions as they were recorded."""
    # Not augmented: that would widen what integers have to span.
    recorded = data.train.subset(data.train.sessions[:N_CALIBRATED])
    features, arrivals, _ = _stacked(recorded, N_CALIBRATED)
    return Sample(features, arrivals)


def judge_of(data: TrainingData) -> Judge:
    """What says how good a file is on the validation part."""
    held_out = _stacked(data.validation, N_JUDGED)
    return lambda path: judged(path, *held_out)


def judged(
    path: Path,
    features: NDArray[np.float32],
    arrivals: NDArray[np.float32] | None,
    truth_deg: NDArray[np.float64],
) -> dict[str, float]:
    """The contract's metrics of a model file, without their `val/`.

    A file without an answer to one of the sessions has NaN for its figures.

    Args:
        path: The file.
        features: `(n, receivers, n_mels, n_frames)`, dB.
        arrivals: `(n, receivers, 5)`, if the model takes them.
        truth_deg: `(n, 2)`, latitude and longitude.
    """
    session = open_session(path)
    names = [end.name for end in session.get_outputs()]
    inputs = {INPUT: features} | ({} if arrivals is None else {ARRIVALS: arrivals})
    parts = [
        session.run(None, {key: values[at : at + _BATCH] for key, values in inputs.items()})
        for at in range(0, len(features), _BATCH)
    ]
    said = dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))
    if not all(np.isfinite(values).all() for values in said.values()):
        return dict.fromkeys(_FIGURES, math.nan)
    return localization_metrics(
        said["positions"], said["uncertainties"], truth_deg, said.get("correlations", 0.0)
    )


def told(choice: Choice) -> list[str]:
    """A line on each variant, and which one it is to be."""
    lines = [
        f"{variant.name:12s} {variant.size_bytes / 1e6:8.1f} MB   "
        f"{choice.latency_ms.get(variant.name, float('nan')):7.1f} ms   "
        f"median error {variant.figures['error_m_median']:.0f} m, "
        f"coverage {variant.figures['coverage_68']:.1%} and {variant.figures['coverage_95']:.1%}"
        for variant in choice.tried
    ]
    return [*lines, f"delivered: {choice.chosen.name}"]


def metrics_of(choice: Choice) -> Mapping[str, float]:
    """Everything that was measured of variants, by names for a run and a sidecar."""
    return {
        f"export/{name}/{figure}": value
        for name, figures in choice.told().items()
        for figure, value in figures.items()
    }


def _stacked(
    dataset: HeimdallDataset, most: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float64]]:
    """Features, arrival times if they are measured, and truths of the first sessions."""
    samples = [dataset[index] for index in range(min(len(dataset), most))]
    arrivals = None if dataset.arrivals is None else np.stack([s["arrivals"] for s in samples])
    return (
        np.stack([sample["features"] for sample in samples]),
        arrivals,
        np.stack([sample["position_deg"] for sample in samples]),
    )
