"""Proof that an exported file says what its network says, on real features.

Positions are compared in the network's own units, in which they are of the order of one: metres
in the plane of the model's region over the region's scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import torch

from heimdall_export.contract import INPUT, OUTPUTS
from heimdall_export.errors import ExportError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["BATCH_SIZES", "LARGEST_MEAN_DIFFERENCE", "N_COMPARED", "ParityReport", "check_parity"]

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
LARGEST_MEAN_DIFFERENCE = 1e-5
"""In network units."""
N_COMPARED = 64
"""Fewer feature tensors than that prove little."""
_METRES_A_DEGREE = 111_320.0
"""Of latitude, to a percent: enough to compare two answers that are centimetres apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """How far the file's answers are from the network's."""

    n_features: int
    batch_sizes: tuple[int, ...]
    mean_difference: float
    """Mean absolute difference of positions and sigmas, in network units; the worst batch size."""
    max_difference: float
    """In network units."""
    worst_m: float
    """Largest difference of a position or a sigma, in metres."""


def check_parity(
    onnx_path: str | os.PathLike[str],
    network: torch.nn.Module,
    features: NDArray[np.float32],
    *,
    scale_m: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ParityReport:
    """Compare an exported file with the network it was exported from.

    Args:
        onnx_path: The file.
        network: The exported module: features to degrees and metres.
        features: Real feature tensors, float32 `(n, receivers, n_mels, n_frames)`. Where there
            are fewer than the largest batch takes, they are repeated to fill it.
        scale_m: Metres in one of the network's units.
        batch_sizes: Each is tried with the same features.

    Raises:
        ExportError: No features, or the mean difference is too large at some batch size.
    """
    if len(features) == 0:
        raise ExportError("there are no features to compare the exported file on")
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    differences_m = [
        _differences_m(session, network, features, batch_size) for batch_size in batch_sizes
    ]
    means = [float(found.mean()) / scale_m for found in differences_m]
    worst_m = max(float(found.max()) for found in differences_m)
    report = ParityReport(
        n_features=len(features),
        batch_sizes=tuple(batch_sizes),
        mean_difference=max(means),
        max_difference=worst_m / scale_m,
        worst_m=worst_m,
    )
    # Not `>`: a NaN must fail as well.
    if not report.mean_difference < LARGEST_MEAN_DIFFERENCE:
        worst = batch_sizes[int(np.argmax(means))]
        raise ExportError(
            f"{onnx_path} differs from its network by {report.mean_difference:.2g} in the mean at "
            f"batch size {worst}, and by {worst_m:.2g} m at worst; at most "
            f"{LARGEST_MEAN_DIFFERENCE:g} is allowed. The file is not used"
        )
    return report


def _differences_m(
    session: onnxruntime.InferenceSession,
    network: torch.nn.Module,
    features: NDArray[np.float32],
    batch_size: int,
) -> NDArray[np.float64]:
    """Absolute differences `(n, 4)`: north, east, and both sigmas, in metres."""
    n = max(len(features), batch_size)
    wanted = np.take(features, range(n), axis=0, mode="wrap")
    found = []
    for start in range(0, n - batch_size + 1, batch_size):
        batch = wanted[start : start + batch_size]
        with torch.inference_mode():
            said = [output.numpy() for output in network(torch.from_numpy(batch))]
        served = session.run(list(OUTPUTS), {INPUT: batch})
        found.append(np.concatenate([_in_metres(said), _in_metres(served)], axis=1))
    both = np.concatenate(found)
    difference: NDArray[np.float64] = np.abs(both[:, :4] - both[:, 4:])
    return difference


def _in_metres(answer: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    degrees, sigma_m = (np.asarray(part, np.float64) for part in answer)
    east = degrees[:, 1] * np.cos(np.radians(degrees[:, 0]))
    return np.column_stack([degrees[:, 0] * _METRES_A_DEGREE, east * _METRES_A_DEGREE, sigma_m])
