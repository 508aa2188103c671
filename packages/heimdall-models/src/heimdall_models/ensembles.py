"""Several trained networks that answer as one, with the moments of their mixture.

Networks of different starts, trained in different orders, are wrong in different places: their mean
is nearer to the truth than they are, and where they disagree, the ellipse is as much wider.

Several Gaussian answers as one: the mixture's moments, and how much disagreement should count.

The mixture of equally likely Gaussians has as mean the mean of theirs, and as covariance the mean
of theirs with the covariance of their means. All of it is in the plane, about the members' centre,
so that ellipses of metres survive float32.

Members that are honest each make a mixture that is wider than it need be where they disagree, and
members that are too sure together may be too sure there still. So how much their disagreement
counts is fitted on validation sessions; where they agree, nothing can change.

Sources: B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable predictive
uncertainty estimation using deep ensembles", NIPS 2017, section 2.4, for the moments; R. Rahaman
and A. H. Thiery, "Uncertainty quantification and deep ensembles", NeurIPS 2021, for calibrating
after merging.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from heimdall_models.calibration import LEAST_SESSIONS, LEVELS
from heimdall_models.ellipses import covariance_of, mahalanobis_squared, sigma_and_correlation
from heimdall_models.errors import ModelError
from heimdall_models.serving import ServingNet, TimedServingNet, as_served, levels_as_served

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from heimdall_models.region import Region

__all__ = ["EnsembleNet", "Moments", "TimedEnsembleNet", "moments", "weight_of_disagreement"]


_CANDIDATES = np.exp(np.linspace(-2, 2, 81))


class Moments(NamedTuple):
    """Of the answers of several members."""

    position: Tensor
    """The mean of theirs, `(..., 2)`."""
    covariance: Tensor
    """The mean of theirs, `(..., 3)` as `ellipses` keeps them."""
    disagreement: Tensor
    """The covariance of their positions, `(..., 3)`."""

    def merged(self, weight: Tensor | float = 1.0) -> Tensor:
        """The covariance of their mixture, `(..., 3)`, in which disagreement has a weight."""
        return self.covariance + weight * self.disagreement


def moments(positions: Tensor, covariances: Tensor) -> Moments:
    """Of equally likely Gaussians.

    Args:
        positions: `(members, ..., 2)`.
        covariances: East-east, east-north, north-north: `(members, ..., 3)`.
    """
    centre = positions.mean(dim=0)
    # Of what is left about the centre: the squares of positions would swallow those of metres.
    east, north = (positions - centre).unbind(dim=-1)
    spread = torch.stack([east.square(), east * north, north.square()], dim=-1)
    return Moments(centre, covariances.mean(dim=0), spread.mean(dim=0))


def weight_of_disagreement(found: Moments, target: Tensor) -> float:
    """The weight of the disagreement with which both ellipses hold their shares most nearly.

    Args:
        found: Of validation sessions, `(n, ...)`.
        target: Their truths, `(n, 2)`.

    Returns:
        The weight, from e^-2 to e^2; of several equally good ones the geometric middle, which is
        1 where the members agree.

    Raises:
        ModelError: If there are fewer than 30 sessions or an answer is not finite.
    """
    finite = all(bool(part.isfinite().all()) for part in (*found, target))
    if len(target) < LEAST_SESSIONS or not finite:
        raise ModelError(
            f"{len(target)} sessions to weigh the members' disagreement on, all answers finite: "
            f"{finite}; give at least {LEAST_SESSIONS}, all finite"
        )
    missed = np.array([_missed(found, target, weight) for weight in _CANDIDATES])
    best = _CANDIDATES[missed <= missed.min() + 1e-9]
    return float(np.exp(np.log(best).mean()))


def _missed(found: Moments, target: Tensor, weight: float) -> float:
    """By how much the shares inside the ellipses differ from what they should be."""
    ellipse = sigma_and_correlation(found.merged(weight))
    square = mahalanobis_squared(target - found.position, *ellipse).numpy()
    shares = [float((square <= -2 * np.log1p(-level)).mean()) for level in LEVELS]
    return sum(abs(share - level) for share, level in zip(shares, LEVELS, strict=True))


SAME_DB = 0.01
"""Within which two normalisations are of the same features."""
SAME_M = 1.0
"""Within which two receivers stand at the same place."""


class _Ensemble(nn.Module):
    """Members that are merged, and how much their disagreement counts."""

    takes: ClassVar[tuple[str, ...]]
    """What of a batch is asked about."""
    disagreement_weight: Tensor

    def __init__(self, members: Sequence[nn.Module], region: Region) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.region = region
        self.register_buffer("disagreement_weight", torch.ones(()))

    def moments(self, *inputs: Tensor) -> Moments:
        """Of what the members say, in plane units."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit how much disagreement counts on sessions that no member was trained on.

        Args:
            batches: With `features`, and `arrivals` where they are taken, as `forward` takes
                them; and `position_deg`, `(batch, 2)`.

        Raises:
            ModelError: If there are fewer than 30 sessions; the weight is then 1.
        """
        self.disagreement_weight.fill_(1.0)
        parts, targets = [], []
        for batch in batches:
            parts.append(self.moments(*(batch[name] for name in self.takes)))
            targets.append(_target(self.region, batch))
        if not targets:
            raise ModelError("there are no sessions to weigh the members' disagreement on")
        found = Moments(*(torch.cat(column) for column in zip(*parts, strict=True)))
        self.disagreement_weight.fill_(weight_of_disagreement(found, torch.cat(targets)))


class EnsembleNet(_Ensemble):
    """A model file of several networks of spectrograms.

    Args:
        members: At least one; of the same region, receivers and normalisation.
        names: What errors call them; member 1, member 2 ... by default.

    Raises:
        ModelError: If two members cannot be merged.
    """

    takes = ("features",)

    def __init__(self, members: Sequence[ServingNet], names: Sequence[str] = ()) -> None:
        _require_same_features(members, _named(members, names))
        super().__init__(members, members[0].region)

    def forward(self, mel_spectrogram: Tensor) -> tuple[Tensor, ...]:
        """Positions in degrees and uncertainties in metres; see `ServingNet`.

        Where no member's ellipses lean, the correlation that members which disagree give is not
        among the outputs.
        """
        return levels_as_served(self.region, *self.on_plane(mel_spectrogram))

    def on_plane(self, mel_spectrogram: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same in plane units, as `ServingNet.on_plane`."""
        found, leans = self._found(mel_spectrogram)
        sigma, correlation = sigma_and_correlation(found.merged(self.disagreement_weight))
        return found.position, sigma, correlation if leans else None

    def moments(self, *inputs: Tensor) -> Moments:
        """Of what the members say, in plane units; without correlation where none of them leans."""
        found, leans = self._found(*inputs)
        if leans:
            return found
        upright = found.disagreement * found.disagreement.new_tensor([1.0, 0.0, 1.0])
        return found._replace(disagreement=upright)

    def _found(self, mel_spectrogram: Tensor) -> tuple[Moments, bool]:
        """The members' moments, and whether an ellipse of theirs leans."""
        said = [cast("ServingNet", member).on_plane(mel_spectrogram) for member in self.members]
        upright = mel_spectrogram.new_zeros(())
        covariances = [
            covariance_of(sigma, upright if tilt is None else tilt) for _, sigma, tilt in said
        ]
        found = moments(torch.stack([units for units, _, _ in said]), torch.stack(covariances))
        return found, any(tilt is not None for _, _, tilt in said)


class TimedEnsembleNet(_Ensemble):
    """A model file of several networks that take times of arrival beside the spectrograms.

    Args:
        members: At least one; of the same region, receivers and normalisation.
        names: What errors call them; member 1, member 2 ... by default.

    Raises:
        ModelError: If two members cannot be merged.
    """

    takes = ("features", "arrivals")

    def __init__(self, members: Sequence[TimedServingNet], names: Sequence[str] = ()) -> None:
        called = _named(members, names)
        _require_same_features([member.levels for member in members], called)
        _require_same_places(members, called)
        super().__init__(members, members[0].levels.region)

    def forward(self, mel_spectrogram: Tensor, arrival_times: Tensor) -> tuple[Tensor, ...]:
        """Positions, uncertainties, correlations and what remains unexplained.

        See `TimedServingNet`; the last is the mean of the members'.
        """
        return as_served(self.region, *self.on_plane(mel_spectrogram, arrival_times))

    def on_plane(
        self, mel_spectrogram: Tensor, arrival_times: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same in plane units, as `TimedServingNet.on_plane`."""
        found, unexplained = self._found(mel_spectrogram, arrival_times)
        return found.position, found.merged(self.disagreement_weight), unexplained

    def moments(self, *inputs: Tensor) -> Moments:
        """Of what the members say, in plane units."""
        return self._found(*inputs)[0]

    def _found(self, mel_spectrogram: Tensor, arrival_times: Tensor) -> tuple[Moments, Tensor]:
        """The members' moments, and what they leave unexplained in the mean."""
        said = [
            cast("TimedServingNet", member).on_plane(mel_spectrogram, arrival_times)
            for member in self.members
        ]
        positions, covariances, unexplained = (
            torch.stack(part) for part in zip(*said, strict=True)
        )
        return moments(positions, covariances), unexplained.mean(dim=0)


def _target(region: Region, batch: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(region.to_plane(batch["position_deg"].numpy())).float()


def _named(members: Sequence[nn.Module], names: Sequence[str]) -> Sequence[str]:
    if not members:
        raise ModelError("an ensemble of no networks says nothing; give one or more")
    return names or [f"member {number}" for number in range(1, len(members) + 1)]


def _require_same_features(members: Sequence[ServingNet], names: Sequence[str]) -> None:
    """Refuse members of another region, shape or normalisation than the first's."""
    for name, member in zip(names, members, strict=True):
        for what, one, other in (
            ("region", member.region, members[0].region),
            ("shape of normalisation", _shape(member), _shape(members[0])),
        ):
            if one != other:
                raise ModelError(f"{_unlike(name, names[0])}: its {what} is {one}, not {other}")
        apart_db = _largest(member.standardize.mean - members[0].standardize.mean)
        if not apart_db <= SAME_DB:
            raise ModelError(
                f"{_unlike(name, names[0])}: its normalisation is up to {apart_db:.2g} dB off, so "
                "it was trained on other sessions, or on other receivers or these in another order"
            )


def _require_same_places(members: Sequence[TimedServingNet], names: Sequence[str]) -> None:
    """Refuse members whose receivers stand elsewhere than the first's."""
    unit_m = members[0].levels.region.scale_m
    wanted = members[0].timing.ranges.receivers
    for name, member in zip(names, members, strict=True):
        found = member.timing.ranges.receivers
        if found.shape != wanted.shape:
            raise ModelError(
                f"{_unlike(name, names[0])}: it takes arrival times of {len(found)} receivers, "
                f"not {len(wanted)}"
            )
        apart_m = (found - wanted).norm(dim=1) * unit_m
        if _largest(apart_m) > SAME_M:
            number = int(apart_m.argmax())
            raise ModelError(
                f"{_unlike(name, names[0])}: receiver {number + 1} of its arrival times stands "
                f"{float(apart_m[number]) / 1000:.3g} km away from there"
            )


def _shape(member: ServingNet) -> tuple[int, ...]:
    return tuple(member.standardize.mean.shape)


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max())


def _unlike(name: str, first: str) -> str:
    return f"{name} cannot be merged with {first}"
