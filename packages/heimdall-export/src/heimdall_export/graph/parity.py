"""Comparison of an exported file with its network on real features.

Positions are compared in the network's own units, in which they are of the order of one: metres
in the plane of the model's region over the region's scale. Degrees are converted to metres where
they are on the WGS84 ellipsoid (`heimdall_locate.sites.offset_m`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from heimdall_locate.sites import offset_m

from heimdall_export.contract import CORRELATIONS, MIXTURE_OUTPUTS, OUTPUTS
from heimdall_export.errors import ExportError
from heimdall_export.graph.export import evaluating
from heimdall_export.session import Sample, known_outputs, open_session, run_in_batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Inputs = Mapping[str, NDArray[np.float32]]

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
_LARGEST_MEAN_DIFFERENCE = 1e-5
"""In network units."""
_LARGEST_CORRELATION_DIFFERENCE = 1e-3
"""Mean difference of the errors' correlations, which lie between -1 and 1."""
_LARGEST_MIXTURE_DIFFERENCE = 1e-3
"""Mean difference of a component's weight, and of its place and sigmas in network units times its
weight. Components are found step by step, which multiplies rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Differences between a file's answers and its network's."""

    n_features: int
    """Different feature tensors that were compared."""
    batch_sizes: tuple[int, ...]
    """Batch sizes with which the file was run."""
    mean_difference: float
    """Mean absolute difference of positions and sigmas, in network units; the worst batch size."""
    max_difference: float
    """In network units."""
    worst_m: float
    """Largest difference of a position's coordinate or a sigma, in metres."""
    mean_correlation_difference: float = 0.0
    """Mean absolute difference of correlations; the worst batch size. 0 where there are none."""
    max_correlation_difference: float = 0.0
    """Largest absolute difference of correlations."""
    mean_mixture_difference: float = 0.0
    """Mean absolute difference of components' weights, and of their places and sigmas in network
    units times their weights; the worst batch size. 0 where there is no mixture."""


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
            some batch size of 1e-5 or more, or of correlations or of a mixture of 1e-3 or more.
    """
    n = len(features)
    if n == 0:
        raise ExportError("no features to compare the exported file on")
    finite = np.isfinite(features).reshape(n, -1).all(axis=1)
    if not finite.all():
        raise ExportError(
            f"feature tensor {int(np.argmin(finite))} of {n} holds NaN or infinity; "
            "compare on features as the extractor returns them"
        )
    session = open_session(onnx_path)
    inputs = Sample(features, arrivals).inputs
    given = {name: f"{values.dtype} {values.shape}" for name, values in inputs.items()}
    wanted = {end.name: f"float32 {(n, *end.shape[1:])}" for end in session.get_inputs()}
    if given != wanted:
        raise ExportError(f"the inputs are {given}; for {n} samples the model takes {wanted}")
    names = known_outputs(session)
    compared = [name for name in names if name in {*OUTPUTS, CORRELATIONS}]
    mixture = [name for name in names if name in MIXTURE_OUTPUTS]
    answers = _network_answers(network, inputs, max(batch_sizes))
    expected = dict(zip(names, answers, strict=False))
    rows = _rows((expected[name] for name in compared), n)
    differences, of_mixture = [], [0.0]
    for size in batch_sizes:
        found = run_in_batches(session, _filled(inputs, size), batch_size=size, outputs=names)
        differences.append(_differences_m(rows, _rows((found[name] for name in compared), n)))
        if mixture:
            ours, others = ([each[name][:n] for name in mixture] for each in (expected, found))
            of_mixture.append(_mixture_difference(ours, others, scale_m))
    metres, correlations = np.split(np.asarray(differences), [4], axis=2)
    worst_m, mean_m = _worst_and_mean(metres)
    worst, mean = _worst_and_mean(correlations) if correlations.size else (0.0, 0.0)
    in_mixture = float(np.max(of_mixture))
    for what, difference, limit in (
        (f"the mean and by {worst_m:.2g} m at worst", mean_m / scale_m, _LARGEST_MEAN_DIFFERENCE),
        ("the mean of correlations", mean, _LARGEST_CORRELATION_DIFFERENCE),
        ("the mean of its mixture", in_mixture, _LARGEST_MIXTURE_DIFFERENCE),
    ):
        # Not `>=`: a NaN must fail as well.
        if not difference < limit:
            raise ExportError(
                f"{os.fspath(onnx_path)} differs from its network by {difference:.2g} in {what}, "
                f"on {n} feature tensors; less than {limit:g} in the mean is required"
            )
    return ParityReport(
        n_features=n,
        batch_sizes=tuple(batch_sizes),
        mean_difference=mean_m / scale_m,
        max_difference=worst_m / scale_m,
        worst_m=worst_m,
        mean_correlation_difference=mean,
        max_correlation_difference=worst,
        mean_mixture_difference=in_mixture,
    )


def _filled(inputs: Inputs, batch_size: int) -> Inputs:
    """The inputs, repeated from the first on until the last batch is full."""
    n = len(next(iter(inputs.values())))
    chosen = np.arange(-(-n // batch_size) * batch_size) % n
    return {name: values[chosen] for name, values in inputs.items()}


def _network_answers(
    network: torch.nn.Module, inputs: Inputs, batch_size: int
) -> list[NDArray[np.float32]]:
    """The network's outputs for the filled inputs."""
    with evaluating(network) as device, torch.inference_mode():
        tensors = map(torch.from_numpy, _filled(inputs, batch_size).values())
        parts = [torch.split(tensor.to(device), batch_size) for tensor in tensors]
        batches = [network(*batch) for batch in zip(*parts, strict=True)]
    return [torch.cat(column).numpy(force=True) for column in zip(*batches, strict=True)]


def _rows(columns: Iterable[NDArray[np.float32]], n: int) -> NDArray[np.float64]:
    """Latitude and longitude in degrees, sigma east and north in metres, float64 `(n, 4)`.

    A fifth column has the correlations, if the model returns them.
    """
    rows = np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1)
    return rows[:n].astype(np.float64)


def _differences_m(
    expected: NDArray[np.float64], found: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute differences of all columns; of the first four, positions and sigmas, in metres."""
    difference = np.abs(found - expected)
    places = np.where(np.isfinite(expected[:, :2]), expected[:, :2], np.nan).tolist()
    with np.errstate(invalid="ignore"):  # infinity becomes NaN
        apart_m = [
            offset_m(latitude_deg, longitude_deg, (there[0], there[1]))
            for (latitude_deg, longitude_deg), there in zip(places, found, strict=True)
        ]
    difference[:, :2] = np.abs(apart_m)
    return difference


def _mixture_difference(
    expected: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]], scale_m: float
) -> float:
    """Mean absolute difference of two mixtures; see `ParityReport`. NaN if a figure is not finite.

    Each is weights `(n, K)`, means in degrees and covariances in square metres.
    """
    weights, means, covariances = (part.astype(np.float64) for part in expected)
    others, other_means, other_covariances = (part.astype(np.float64) for part in found)
    if not all(np.isfinite(part).all() for part in (*expected, *found)):
        return math.nan
    places = zip(means.reshape(-1, 2).tolist(), other_means.reshape(-1, 2), strict=True)
    apart_m = np.array([offset_m(here[0], here[1], (it[0], it[1])) for here, it in places])
    sigmas_m = [np.sqrt(each[..., :2]) for each in (covariances, other_covariances)]
    metres = np.concatenate([apart_m.reshape(means.shape), sigmas_m[0] - sigmas_m[1]], axis=-1)
    in_units = weights[..., None] * metres / scale_m
    both = np.concatenate([in_units, (weights - others)[..., None]], axis=-1)
    return float(np.abs(both).mean())


def _worst_and_mean(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Largest and mean of `(batch sizes, n, columns)` at the worst batch size; NaN if any is."""
    worst = float(np.max(differences))
    mean = float(np.max(np.mean(differences, axis=(1, 2))))
    return (worst, mean) if math.isfinite(worst) else (math.nan, math.nan)
