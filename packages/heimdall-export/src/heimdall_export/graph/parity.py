"""Proof that an exported file says what its network says, on real features.

Positions are compared in the network's own units, in which they are of the order of one: metres
in the plane of the model's region over the region's scale. A degree of latitude and longitude is
taken as long as it is there on the WGS84 ellipsoid (NGA.STND.0036, section 4): the radii of
curvature in the meridian and in the prime vertical.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from heimdall_export.contract import ARRIVALS, INPUT, OUTPUTS, TIMED_OUTPUTS
from heimdall_export.errors import ExportError
from heimdall_export.graph.trace import evaluating
from heimdall_export.session import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Inputs = tuple[NDArray[np.float32], ...]
    Answer = Callable[[Inputs], list[NDArray[np.float32]]]

__all__ = [
    "BATCH_SIZES",
    "LARGEST_CORRELATION_DIFFERENCE",
    "LARGEST_MEAN_DIFFERENCE",
    "ParityReport",
    "check_parity",
]

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
LARGEST_MEAN_DIFFERENCE = 1e-5
"""In network units."""
LARGEST_CORRELATION_DIFFERENCE = 1e-3
"""In the mean, of the errors' correlations, which lie between -1 and 1."""
_SEMI_MAJOR_M = 6_378_137.0
_ECCENTRICITY_SQUARED = 6.694379990141e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far the file's answers are from the network's."""

    n_features: int
    """Different feature tensors that were compared."""
    batch_sizes: tuple[int, ...]
    mean_difference: float
    """Mean absolute difference of positions and sigmas, in network units; the worst batch size."""
    max_difference: float
    """In network units."""
    worst_m: float
    """Largest difference of a position's coordinate or a sigma, in metres."""
    mean_correlation_difference: float = 0.0
    """Mean absolute difference of correlations; the worst batch size. 0 where there are none."""
    max_correlation_difference: float = 0.0


def check_parity(
    onnx_path: str | os.PathLike[str],
    network: torch.nn.Module,
    features: NDArray[np.float32],
    *,
    arrivals: NDArray[np.float32] | None = None,
    scale_m: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ParityReport:
    """Compare an exported file with the network it was exported from.

    The network answers once; the file answers at every batch size. A last batch that is not
    full is filled with the first tensors again.

    Args:
        onnx_path: The file.
        network: The exported module: features to degrees and metres.
        features: Real feature tensors, float32 `(n, receivers, n_mels, n_frames)`; 64 or more
            prove something.
        arrivals: Their arrival times, float32 `(n, receivers, 5)`, if the model takes them.
        scale_m: Metres in one of the network's units.
        batch_sizes: Each is tried with all the features.

    Raises:
        ExportError: No features, features that are not finite or of another shape, a file that
            cannot be run, arrival times that are missing or not wanted, or a mean difference at
            some batch size of 1e-5 or more, or of correlations of 1e-3 or more.
    """
    _require_features(features)
    session = open_session(onnx_path)
    inputs = (features,) if arrivals is None else (features, arrivals)
    _require_inputs([end.shape for end in session.get_inputs()], inputs)
    given = {end.name for end in session.get_outputs()}
    wanted = [name for name in (*OUTPUTS, *TIMED_OUTPUTS[:1]) if name in given]

    def serve(batch: Inputs) -> list[NDArray[np.float32]]:
        return list(session.run(wanted, dict(zip((INPUT, ARRIVALS), batch, strict=False))))

    said = _answers(_called(network, len(wanted)), inputs, max(batch_sizes))
    differences = [
        _differences_m(said, _answers(serve, inputs, batch_size)) for batch_size in batch_sizes
    ]
    report = _report(differences, len(features), tuple(batch_sizes), scale_m)
    _require_equal(report, os.fspath(onnx_path))
    return report


def _require_equal(report: ParityReport, path: str) -> None:
    # Not `>=`: a NaN must fail as well.
    if not report.mean_difference < LARGEST_MEAN_DIFFERENCE:
        raise ExportError(
            f"{path} differs from its network by {report.mean_difference:.2g} in the mean "
            f"and by {report.worst_m:.2g} m at worst, on {report.n_features} feature tensors; less "
            f"than {LARGEST_MEAN_DIFFERENCE:g} is required, so it is not used"
        )
    if not report.mean_correlation_difference < LARGEST_CORRELATION_DIFFERENCE:
        raise ExportError(
            f"{path} differs from its network by {report.mean_correlation_difference:.2g} in the "
            f"mean of correlations, on {report.n_features} feature tensors; less than "
            f"{LARGEST_CORRELATION_DIFFERENCE:g} is required, so it is not used"
        )


def _require_features(features: NDArray[np.float32]) -> None:
    if len(features) == 0:
        raise ExportError("there are no features to compare the exported file on")
    finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if not finite.all():
        raise ExportError(
            f"feature tensor {int(np.argmin(finite))} of {len(features)} holds NaN or infinity; "
            "compare on features as the extractor returns them"
        )


def _require_inputs(shapes: Sequence[Sequence[int | str]], inputs: Inputs) -> None:
    features, *arrivals = inputs
    shape = tuple(shapes[0][1:])
    if shape != features.shape[1:] or features.dtype != np.float32:
        raise ExportError(
            f"the features are {features.dtype} {features.shape[1:]}, "
            f"the model takes float32 {shape}"
        )
    found = [f"{rows.dtype} {rows.shape}" for rows in arrivals]
    wanted = [f"float32 {(len(features), *shape[1:])}" for shape in shapes[1:]]
    if found != wanted:
        raise ExportError(
            f"the arrival times are {found or 'not given'}; for these features the model takes "
            f"{wanted or 'none'}"
        )


def _called(network: torch.nn.Module, n_outputs: int) -> Answer:
    def call(batch: Inputs) -> list[NDArray[np.float32]]:
        with evaluating(network) as device, torch.inference_mode():
            outputs = network(*(torch.from_numpy(values).to(device) for values in batch))
            return [output.numpy(force=True) for output in outputs[:n_outputs]]

    return call


def _answers(answer: Answer, inputs: Inputs, batch_size: int) -> NDArray[np.float64]:
    """Latitude and longitude in degrees, sigma east and north in metres, float64 `(n, 4)`.

    A fifth column has the correlations of a model whose ellipses lean.
    """
    n = len(inputs[0])
    rows = []
    for start in range(0, n, batch_size):
        chosen = np.arange(start, start + batch_size) % n
        columns = answer(tuple(values[chosen] for values in inputs))
        rows.append(np.concatenate([c.reshape(batch_size, -1) for c in columns], axis=1))
    return np.concatenate(rows)[:n].astype(np.float64)


def _differences_m(
    expected: NDArray[np.float64], found: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute differences of all columns; of the first four, positions and sigmas, in metres."""
    latitude = np.radians(expected[:, 0])
    flattening = 1 - _ECCENTRICITY_SQUARED * np.sin(latitude) ** 2
    north_m = _SEMI_MAJOR_M * (1 - _ECCENTRICITY_SQUARED) / flattening**1.5
    east_m = _SEMI_MAJOR_M / np.sqrt(flattening) * np.cos(latitude)
    difference = np.abs(found - expected)
    difference[:, 1] = np.minimum(difference[:, 1], 360 - difference[:, 1])
    difference[:, 0] *= np.radians(north_m)
    difference[:, 1] *= np.radians(east_m)
    return difference


def _report(
    differences: Sequence[NDArray[np.float64]],
    n_features: int,
    batch_sizes: tuple[int, ...],
    scale_m: float,
) -> ParityReport:
    metres, correlations = np.split(np.asarray(differences), [4], axis=2)
    worst_m, mean_m = _worst_and_mean(metres)
    worst, mean = _worst_and_mean(correlations) if correlations.size else (0.0, 0.0)
    return ParityReport(
        n_features=n_features,
        batch_sizes=batch_sizes,
        mean_difference=mean_m / scale_m,
        max_difference=worst_m / scale_m,
        worst_m=worst_m,
        mean_correlation_difference=mean,
        max_correlation_difference=worst,
    )


def _worst_and_mean(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Of `(batch sizes, n, columns)`, at the worst batch size; both NaN if any is not finite."""
    worst = float(np.max(differences))
    mean = float(np.max(np.mean(differences, axis=(1, 2))))
    return (worst, mean) if math.isfinite(worst) else (math.nan, math.nan)
