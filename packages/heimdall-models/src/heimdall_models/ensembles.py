"""Several trained networks that answer as one, with the moments of their mixture.

Networks with different starts and data orders are wrong in different places: their mean is nearer
to the truth than they are, and where they disagree, the ellipse is wider. A mixture of equally
likely Gaussians has the mean of their means; its covariance is the mean of their covariances plus
the covariance of their means. All of it is computed in the plane, about the members' centre, so
that ellipses of metres survive float32.

A mixture of calibrated members is too wide where they disagree, and members that share an
overconfidence remain overconfident together. So the weight of their disagreement is fitted on
validation sessions; where they agree, it changes nothing.

Members that answer with several Gaussians are merged Gaussian by Gaussian: they have learned the
same maps, so each member's first is of the same peak, unless members trust the maps unlike each
other: of different temperatures, some sessions have their peaks in another order.

Sources: B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable predictive
uncertainty estimation using deep ensembles", NIPS 2017, section 2.4, for the moments; R. Rahaman
and A. H. Thiery, "Uncertainty quantification and deep ensembles", NeurIPS 2021, for calibrating
after merging.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from heimdall_models.calibration import best_factors, require_enough, shares
from heimdall_models.ellipses import (
    covariance_of,
    mahalanobis_squared,
    outer,
    sigma_and_correlation,
)
from heimdall_models.errors import ModelError
from heimdall_models.mixtures import Mixture
from heimdall_models.serving import (
    OnPlane,
    ServingNet,
    TimedServingNet,
    as_served,
    timed_as_served,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SAME_DB = 0.01
"""Difference below which two normalisations are of the same features."""
SAME_M = 1.0
"""Distance below which two receivers are at the same place."""


class Moments(NamedTuple):
    """Moments of the answers of several members."""

    position: Tensor
    """Mean of their positions, `(..., 2)`."""
    covariance: Tensor
    """Mean of their covariances, `(..., 3)` as `ellipses` keeps them."""
    disagreement: Tensor
    """Covariance of their positions, `(..., 3)`."""

    def merged(self, weight: Tensor | float = 1.0) -> Tensor:
        """Covariance of the mixture, `(..., 3)`, with a weight on the disagreement."""
        return self.covariance + weight * self.disagreement


def merged_mixture(members: Sequence[Mixture], weight: Tensor | float) -> Mixture:
    """Mixture of equally likely ones, merged component by component.

    The covariance of a component's means among members has this weight.
    """
    weights, means, covariances = map(torch.stack, zip(*members, strict=True))
    share = (weights / weights.sum(dim=0)).unsqueeze(-1)
    mean = (share * means).sum(dim=0)
    within = covariances + weight * outer(means - mean)
    return Mixture(weights.mean(dim=0), mean, (share * within).sum(dim=0))


def moments(positions: Tensor, covariances: Tensor) -> Moments:
    """Moments of equally likely Gaussians, from `(members, ..., 2)` and `(members, ..., 3)`."""
    centre = positions.mean(dim=0)
    # About the centre: squares of positions would swallow those of metres.
    spread = outer(positions - centre)
    return Moments(centre, covariances.mean(dim=0), spread.mean(dim=0))


class _Ensemble(nn.Module):
    """Members that are merged, with their networks of `levels` and the names in errors."""

    takes: ClassVar[tuple[str, ...]]
    """Keys of a batch that `moments` takes, in order."""
    disagreement_weight: Tensor
    """Weight of the members' disagreement; 1 before calibration."""

    def __init__(
        self, members: Sequence[nn.Module], levels: Sequence[ServingNet], names: Sequence[str]
    ) -> None:
        super().__init__()
        if not members:
            raise ModelError("an ensemble of no networks; give one or more")
        self.names = names or [f"member {number}" for number in range(1, len(members) + 1)]
        _require_same_features(levels, self.names)
        self.members = nn.ModuleList(members)
        self.region = levels[0].region
        self.register_buffer("disagreement_weight", torch.ones(()))

    def moments(self, *inputs: Tensor) -> Moments:
        """Moments of the members' answers, in plane units."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit the weight of the disagreement on sessions that no member was trained on.

        It is the weight from e^-2 to e^2 with which both ellipses hold their shares most nearly;
        of several equally good ones the geometric middle, 1 where the members agree.

        Args:
            batches: With `features` and, if they are taken, `arrivals`, as `forward` takes them;
                and `position_deg`, `(batch, 2)`.

        Raises:
            ModelError: If there are fewer than 30 sessions, or an answer is not finite; the
                weight is then 1.
        """
        self.disagreement_weight.fill_(1.0)
        parts, targets = [], []
        for batch in batches:
            parts.append(self.moments(*(batch[name] for name in self.takes)))
            units = self.region.to_plane(batch["position_deg"].numpy())
            targets.append(torch.from_numpy(units).float())
        if not targets:
            raise ModelError("no sessions to weigh the members' disagreement on")
        found = Moments(*(torch.cat(column) for column in zip(*parts, strict=True)))
        target = torch.cat(targets)
        require_enough(torch.cat([*found, target], dim=1).numpy())
        weights = np.exp(np.linspace(-2, 2, 81))
        ellipses = (sigma_and_correlation(found.merged(weight)) for weight in weights)
        squares = [mahalanobis_squared(target - found.position, *ellipse) for ellipse in ellipses]
        best = best_factors(weights, shares(torch.stack(squares).numpy()))
        self.disagreement_weight.fill_(float(np.exp(np.log(best).mean())))


class EnsembleNet(_Ensemble):
    """Several networks of spectrograms as one, to export as a model file.

    Members have one region, receivers and normalisation; errors call them by their names, or
    member 1, member 2 ...

    Raises:
        ModelError: If two members cannot be merged, or there are none.
    """

    takes = ("features",)

    def __init__(self, members: Sequence[ServingNet], names: Sequence[str] = ()) -> None:
        super().__init__(members, members, names)

    def forward(self, mel_spectrogram: Tensor) -> tuple[Tensor, ...]:
        """Outputs as those of `ServingNet`; no correlation where no member is tilted."""
        return as_served(self.region, *self.on_plane(mel_spectrogram))

    def on_plane(self, mel_spectrogram: Tensor) -> OnPlane:
        """The same in plane units, as `ServingNet.on_plane`."""
        found, tilted, mixtures = self._found(mel_spectrogram)
        sigma, correlation = sigma_and_correlation(found.merged(self.disagreement_weight))
        merged = [merged_mixture(mixtures, self.disagreement_weight)] if mixtures else []
        return found.position, sigma, correlation if tilted else None, *merged

    def moments(self, *inputs: Tensor) -> Moments:
        """Moments of the members' answers; without correlation where no member is tilted."""
        found, tilted, _ = self._found(*inputs)
        upright = found.disagreement.new_tensor([1.0, 0.0, 1.0])
        return found if tilted else found._replace(disagreement=found.disagreement * upright)

    def _found(self, mel_spectrogram: Tensor) -> tuple[Moments, bool, Sequence[Mixture]]:
        """The members' moments, whether one of their ellipses is tilted, and their mixtures."""
        said = [cast("ServingNet", member).on_plane(mel_spectrogram) for member in self.members]
        positions, sigmas, tilts, *mixtures = zip(*said, strict=True)
        upright = mel_spectrogram.new_zeros(())
        leaning = [upright if tilt is None else tilt for tilt in tilts]
        covariances = [*map(covariance_of, sigmas, leaning)]
        found = moments(torch.stack(positions), torch.stack(covariances))
        return found, any(tilt is not None for tilt in tilts), mixtures[0] if mixtures else ()


class TimedEnsembleNet(_Ensemble):
    """Several networks that also take times of arrival, as one; otherwise as `EnsembleNet`."""

    takes = ("features", "arrivals")

    def __init__(self, members: Sequence[TimedServingNet], names: Sequence[str] = ()) -> None:
        super().__init__(members, [member.levels for member in members], names)
        _require_same_places(members, self.names)

    def forward(self, mel_spectrogram: Tensor, arrival_times: Tensor) -> tuple[Tensor, ...]:
        """Outputs as those of `TimedServingNet`; the unexplained part is the members' mean."""
        return timed_as_served(self.region, *self.on_plane(mel_spectrogram, arrival_times))

    def on_plane(self, mel_spectrogram: Tensor, arrival_times: Tensor) -> OnPlane:
        """The same in plane units, as `TimedServingNet.on_plane`."""
        found, unexplained, mixtures = self._found(mel_spectrogram, arrival_times)
        merged = [merged_mixture(mixtures, self.disagreement_weight)] if mixtures else []
        return found.position, found.merged(self.disagreement_weight), unexplained, *merged

    def moments(self, *inputs: Tensor) -> Moments:
        """Moments of the members' answers, in plane units."""
        return self._found(*inputs)[0]

    def _found(self, *inputs: Tensor) -> tuple[Moments, Tensor, Sequence[Mixture]]:
        """The members' moments, the mean of what they leave unexplained, and their mixtures."""
        said = [cast("TimedServingNet", member).on_plane(*inputs) for member in self.members]
        positions, covariances, unexplained, *mixtures = zip(*said, strict=True)
        found = moments(torch.stack(positions), torch.stack(covariances))
        return found, torch.stack(unexplained).mean(dim=0), mixtures[0] if mixtures else ()


def _require_same_features(members: Sequence[ServingNet], names: Sequence[str]) -> None:
    """Refuse members of another region, shape or normalisation than the first's."""
    region, wanted = members[0].region, members[0].standardize.mean
    for name, member in zip(names, members, strict=True):
        unlike = f"{name} cannot be merged with {names[0]}: its"
        mean = member.standardize.mean
        if member.region != region:
            raise ModelError(f"{unlike} region is {member.region}, not {region}")
        if mean.shape != wanted.shape:
            raise ModelError(
                f"{unlike} normalisation has shape {tuple(mean.shape)}, not {tuple(wanted.shape)}"
            )
        if member.n_components != members[0].n_components:
            raise ModelError(
                f"{unlike} answers have {member.n_components} components, not "
                f"{members[0].n_components}"
            )
        apart_db = float((mean - wanted).abs().max())
        if not apart_db <= SAME_DB:
            raise ModelError(
                f"{unlike} normalisation differs by up to {apart_db:.2g} dB, so it was trained on "
                "other sessions, on other receivers, or on the same ones in another order"
            )


def _require_same_places(members: Sequence[TimedServingNet], names: Sequence[str]) -> None:
    """Refuse members whose receivers are elsewhere than the first's."""
    wanted = members[0].timing.ranges.receivers
    for name, member in zip(names, members, strict=True):
        unlike = f"{name} cannot be merged with {names[0]}:"
        found = member.timing.ranges.receivers
        if found.shape != wanted.shape:
            raise ModelError(
                f"{unlike} it takes arrival times of {len(found)} receivers, not {len(wanted)}"
            )
        apart_m = (found - wanted).norm(dim=1) * members[0].levels.region.scale_m
        if float(apart_m.max()) > SAME_M:
            number = int(apart_m.argmax())
            raise ModelError(
                f"{unlike} receiver {number + 1} of its arrival times is "
                f"{float(apart_m[number]) / 1000:.3g} km away"
            )
