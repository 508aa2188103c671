"""Proof that an exported file says what its network says, on real features.

Positions are compared in the network's own units, in which they are of the order of one: metres
in the plane of the model's region over the region's scale. A degree of latitude and longitude is
taken as long as it is there on the WGS84 ellipsoid (NGA.STND.0036, section 4): the radii of
curvature in the meridian and in the prime vertical.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from heimdall_export.contract import INPUT, OUTPUTS
from heimdall_export.errors import ExportError
from heimdall_export.evaluation_mode import evaluating
from heimdall_export.onnx_session import open_session

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["BATCH_SIZES", "LARGEST_MEAN_DIFFERENCE", "ParityReport", "check_parity"]

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
LARGEST_MEAN_DIFFERENCE = 1e-5
"""In network units."""
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


def check_parity(
    onnx_path: str | os.PathLike[str],
    network: torch.nn.Module,
    features: NDArray[np.float32],
    *,
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
        scale_m: Metres in one of the network's units.
        batch_sizes: Each is tried with all the features.

    Raises:
        ExportError: No features, features that are not finite or of another shape, a file that
            cannot be run, or a mean difference of 1e-5 or more at some batch size.
    """
    _require_features(features)
    session = open_session(onnx_path)
    _require_shape(session.get_inputs()[0].shape, features)

    def serve(batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(session.run(list(OUTPUTS), {INPUT: batch}))

    said = _answers(_called(network), features, max(batch_sizes))
    differences_m = [
        _differences_m(said, _answers(serve, features, batch_size)) for batch_size in batch_sizes
    ]
    report = _report(differences_m, len(features), tuple(batch_sizes), scale_m)
    # Not `>=`: a NaN must fail as well.
    if not report.mean_difference < LARGEST_MEAN_DIFFERENCE:
        raise ExportError(
            f"{onnx_path} differs from its network by {report.mean_difference:.2g} in the mean "
            f"and by {report.worst_m:.2g} m at worst, on {len(features)} feature tensors; less "
            f"than {LARGEST_MEAN_DIFFERENCE:g} is required, so it is not used"
        )
    return report


def _require_features(features: NDArray[np.float32]) -> None:
    if len(features) == 0:
        raise ExportError("there are no features to compare the exported file on")
    finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if not finite.all():
        raise ExportError(
            f"feature tensor {int(np.argmin(finite))} of {len(features)} holds NaN or infinity; "
            "compare on features as the extractor returns them"
        )


def _require_shape(shape: Sequence[int | str], features: NDArray[np.float32]) -> None:
    if tuple(shape[1:]) != features.shape[1:] or features.dtype != np.float32:
        raise ExportError(
            f"the features are {features.dtype} {features.shape[1:]}, "
            f"the model takes float32 {tuple(shape[1:])}"
        )


def _called(
    network: torch.nn.Module,
) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
    def call(batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with evaluating(network) as device, torch.inference_mode():
            outputs = network(torch.from_numpy(batch).to(device))
            return [output.numpy(force=True) for output in outputs[:2]]

    return call


def _answers(
    answer: Callable[[NDArray[np.float32]], list[NDArray[np.float32]]],
    features: NDArray[np.float32],
    batch_size: int,
) -> NDArray[np.float64]:
    """Latitude and longitude in degrees, sigma east and north in metres, float64 `(n, 4)`."""
    n = len(features)
    batches = [
        np.take(features, range(start, start + batch_size), axis=0, mode="wrap")
        for start in range(0, n, batch_size)
    ]
    rows = [np.concatenate(answer(batch), axis=1) for batch in batches]
    return np.concatenate(rows)[:n].astype(np.float64)


def _differences_m(
    expected: NDArray[np.float64], found: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute differences `(n, 4)`: north, east, and both sigmas, in metres."""
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
    differences_m: Sequence[NDArray[np.float64]],
    n_features: int,
    batch_sizes: tuple[int, ...],
    scale_m: float,
) -> ParityReport:
    worst_m = float(np.max(differences_m))
    mean_m = float(np.max(np.mean(differences_m, axis=(1, 2))))
    if not math.isfinite(worst_m):
        worst_m = mean_m = math.nan
    return ParityReport(
        n_features=n_features,
        batch_sizes=batch_sizes,
        mean_difference=mean_m / scale_m,
        max_difference=worst_m / scale_m,
        worst_m=worst_m,
    )
