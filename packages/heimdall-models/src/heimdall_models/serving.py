"""The networks to export: spectrograms in dB in, degrees and metres out, all in one graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from heimdall_models.ellipses import precision_of, sigma_and_correlation
from heimdall_models.errors import ModelError
from heimdall_models.mixtures import Mixture
from heimdall_models.timing.network import REGION_SHARE, region_prior
from heimdall_models.timing.solver import Gaussian

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from heimdall_models.region import Region
    from heimdall_models.timing.network import TimingNet

LEVEL_SHARE = 1 - REGION_SHARE
OnPlane = tuple[Any, ...]
"""Three tensors in plane units, and a `Mixture` where there is one."""


class Standardize(nn.Module):
    """(features - mean) / std, with the training set's statistics.

    Both are in dB, broadcastable to `(receivers, bands, frames)`.

    Raises:
        ModelError: If the shapes differ, a value is not finite, or a deviation not positive.
    """

    mean: Tensor
    """Mean of the training part."""
    std: Tensor
    """Standard deviation of the training part."""

    def __init__(self, mean: ArrayLike, std: ArrayLike) -> None:
        super().__init__()
        # Copies, because statistics may be read-only.
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean, dtype=np.float32).copy()))
        self.register_buffer("std", torch.from_numpy(np.asarray(std, dtype=np.float32).copy()))
        if self.mean.shape != self.std.shape:
            raise ModelError(
                f"mean {tuple(self.mean.shape)} and std {tuple(self.std.shape)} differ in shape"
            )
        if not (self.mean.isfinite() & self.std.isfinite() & (self.std > 0)).all():
            raise ModelError(
                f"normalisation needs finite means and positive deviations; the least deviation "
                f"is {self.std.min().item():g}"
            )

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features `(batch, receivers, bands, frames)`.

        Raises:
            ModelError: If the features are of another shape than the statistics.
        """
        for given, known in zip(features.shape[::-1], self.mean.shape[::-1], strict=False):
            if known not in (1, given):
                raise ModelError(
                    f"features {tuple(features.shape)} do not fit the normalisation of "
                    f"(receivers, bands, frames) {tuple(self.mean.shape)}"
                )
        return (features - self.mean) / self.std


class ServingNet(nn.Module):
    """The contract's model file as a module.

    `net` gives positions and sigmas in plane units, if its ellipses are tilted also correlations,
    and if it has several components also the three parts of a `Mixture`.
    """

    def __init__(self, standardize: Standardize, net: nn.Module, region: Region) -> None:
        super().__init__()
        self.standardize = standardize
        self.net = net
        self.region = region

    def forward(self, mel_spectrogram: Tensor) -> tuple[Tensor, ...]:
        """Positions and uncertainties, both float32 `(batch, 2)`.

        Args:
            mel_spectrogram: float32 `(batch, receivers, 128, 32)` in dB, as the feature
                extractor returns them.

        Returns:
            Latitude and longitude in degrees (WGS84), NaN beyond the Earth's limb; standard
            deviations east and north in metres; if the network's ellipses are tilted, the
            correlation of both errors, `(batch,)`; and if it has several components, their weights
            `(batch, K)`, means `(batch, K, 2)` in degrees and covariances `(batch, K, 3)` in m²,
            east-east, north-north, east-north.
        """
        return as_served(self.region, *self.on_plane(mel_spectrogram))

    @property
    def n_components(self) -> int:
        """Gaussians in an answer."""
        return int(getattr(self.net, "n_components", 1))

    def on_plane(self, mel_spectrogram: Tensor) -> OnPlane:
        """The same in plane units; None for the correlation of upright ellipses.

        A `Mixture` follows if there are several components.
        """
        units, sigma, *rest = self.net(self.standardize(mel_spectrogram))
        mixture = [Mixture(*rest[-3:])] if len(rest) >= 3 else []
        return units, sigma, rest[0] if len(rest) % 3 else None, *mixture


def as_served(
    region: Region, position: Tensor, sigma: Tensor, *others: Tensor | Mixture | None
) -> tuple[Tensor, ...]:
    """Outputs of a model file, from an answer in plane units; without others that are None."""
    outputs = [plane_to_degrees(region, position).float(), sigma * region.scale_m]
    for each in others:
        if isinstance(each, Mixture):
            means = plane_to_degrees(region, each.means).float()
            ee, en, nn = (each.covariances * region.scale_m**2).unbind(dim=-1)
            outputs += [each.weights, means, torch.stack([ee, nn, en], dim=-1)]
        elif each is not None:
            outputs.append(each)
    return tuple(outputs)


class TimedServingNet(nn.Module):
    """A model file that takes times of arrival beside the spectrograms.

    The position by levels is the timing network's prior: with fewer than two clocks in lock, it is
    the answer. With three, which give a position by themselves, little of it counts: levels may be
    far off where they are unlike those of training. The rest of the prior is the region's, so that
    it never reaches far out of the region.
    """

    def __init__(self, levels: ServingNet, timing: TimingNet) -> None:
        super().__init__()
        self.levels = levels
        self.timing = timing

    def forward(self, mel_spectrogram: Tensor, arrival_times: Tensor) -> tuple[Tensor, ...]:
        """Positions, uncertainties, correlations and the unexplained part.

        Args:
            mel_spectrogram: As `ServingNet` takes it.
            arrival_times: float32 `(batch, receivers, 5)`, as the arrival extractor returns them.

        Returns:
            As `ServingNet`, then the correlation of the errors east and north `(batch,)`, and
            the unexplained part as `TimingNet.calibrated` has it, `(batch,)`: above 1 the times
            are unlike those of training or the position is beyond the prior or the region, and
            the ellipse is wider by that factor, up to the prior's. If the levels have several
            components, weights, means and covariances follow: from three receivers on of the
            distinct solutions of the times, such as mirror images, below of the levels' components
            combined with the times.
        """
        return timed_as_served(self.levels.region, *self.on_plane(mel_spectrogram, arrival_times))

    def on_plane(self, mel_spectrogram: Tensor, arrival_times: Tensor) -> OnPlane:
        """Position, covariance `(batch, 3)` as `ellipses` keeps it, and the unexplained part.

        In plane units; a `Mixture` follows if the levels have one.
        """
        units, sigma, tilt, *mixture = self.levels.on_plane(mel_spectrogram)
        upright = sigma.new_zeros(()) if tilt is None else tilt
        levels = Gaussian(units, precision_of(sigma, upright))
        timed = arrival_times[..., :1].sum(dim=1) >= 3
        prior = _partly(levels, timed, self.timing.region_share)
        found = self.timing(arrival_times, prior)
        if mixture:
            of_levels = mixture[0]
            found, *mixture = self.timing.with_alternatives(arrival_times, prior, of_levels, found)
        return found.position, found.covariance, found.unexplained, *mixture


def timed_as_served(
    region: Region, position: Tensor, covariance: Tensor, unexplained: Tensor, *mixture: Mixture
) -> tuple[Tensor, ...]:
    """`as_served` of what `TimedServingNet.on_plane` returns."""
    sigma, correlation = sigma_and_correlation(covariance)
    return as_served(region, position, sigma, correlation, unexplained, *mixture)


def _partly(levels: Gaussian, timed: Tensor, region_share: Tensor) -> Gaussian:
    """The prior from levels and, in `timed` sessions `(batch, 1)`, mostly from the region.

    Both are Gaussians to the power of their shares; the region's mean is zero.
    """
    # One row, so that an exported graph keeps its dynamic batch.
    region = region_prior(1, timed.device).precision
    told = LEVEL_SHARE * levels.precision.double()
    precision = told + region_share.double() * region.double()
    east, north = levels.mean.double().unbind(dim=-1)
    told_ee, told_en, told_nn = told.unbind(dim=-1)
    ee, en, nn = precision.unbind(dim=-1)
    of_east, of_north = told_ee * east + told_en * north, told_en * east + told_nn * north
    mean = torch.stack([nn * of_east - en * of_north, ee * of_north - en * of_east], dim=-1)
    mean = mean / (ee * nn - en.square()).unsqueeze(-1)
    dtype = levels.mean.dtype
    return Gaussian(
        torch.where(timed, mean.to(dtype), levels.mean),
        torch.where(timed, precision.to(dtype), levels.precision),
    )


def plane_to_degrees(region: Region, units: Tensor) -> Tensor:
    """`Region.to_degrees` for tensors, in operations that ONNX Runtime has: float64 `(..., 2)`.

    The arctangent exists there in float32 only, so it is taken of the small angle from the
    region's centre: 1 cm at 200 km, below the 0.4 m step of a float32 degree.
    """
    east_m, north_m = (units.double() * region.scale_m).unbind(dim=-1)
    latitude, longitude = region.angles(east_m, north_m)
    longitude_deg = region.longitude_deg + _degrees_of_tangent(*longitude)
    return torch.stack(
        [
            region.latitude_deg + _degrees_of_tangent(*latitude),
            longitude_deg - 360 * ((longitude_deg + 180) / 360).floor(),
        ],
        dim=-1,
    )


def _degrees_of_tangent(opposite: Tensor, adjacent: Tensor) -> Tensor:
    return torch.atan((opposite / adjacent).float()).double() * (180 / math.pi)
