"""Several trained networks that answer as one: their mixture, merged into one Gaussian.

Networks of different starts, trained in different orders, are wrong in different places. The
mixture of their answers has as mean the mean of theirs, and as covariance the mean of theirs
with that of their means: where they disagree, the ellipse is as much wider. All of it is in the
region's plane, about the members' centre, so that ellipses of metres survive float32.

A mixture of Gaussians that were honest each is wider than it need be: one temperature, fitted on
validation sessions, makes the merged Gaussian honest again.

Source: B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable predictive
uncertainty estimation using deep ensembles", NIPS 2017, section 2.4.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from heimdall_models.calibration import temperature
from heimdall_models.ellipses import covariance_of, mahalanobis_squared, sigma_and_correlation
from heimdall_models.errors import ModelError
from heimdall_models.serving import ServingNet, TimedServingNet, as_served, levels_as_served

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from heimdall_models.region import Region

__all__ = ["EnsembleNet", "TimedEnsembleNet", "merged"]

FEWEST_TIMES = 2
"""Receivers that heard a transmission; of fewer, the timing network gives what levels say."""
SAME_DB = 0.01
"""Within which two normalisations are of the same features."""
SAME_M = 1.0
"""Within which two receivers stand at the same place."""


class EnsembleNet(nn.Module):
    """A model file of several networks of spectrograms.

    Args:
        members: At least one; of the same region, receivers and normalisation.
        names: What errors call them; member 1, member 2 ... by default.

    Raises:
        ModelError: If two members cannot be merged.
    """

    log_temperature: Tensor

    def __init__(self, members: Sequence[ServingNet], names: Sequence[str] = ()) -> None:
        super().__init__()
        _require_same_features(members, _named(members, names))
        self.members = nn.ModuleList(members)
        self.region = members[0].region
        self.register_buffer("log_temperature", torch.zeros(()))

    def forward(self, mel_spectrogram: Tensor) -> tuple[Tensor, ...]:
        """Positions in degrees and uncertainties in metres; see `ServingNet`.

        Where no member's ellipses lean, the correlation that members which disagree give is not
        among the outputs.
        """
        return levels_as_served(self.region, *self.on_plane(mel_spectrogram))

    def on_plane(self, mel_spectrogram: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same in plane units, as `ServingNet.on_plane`."""
        said = [cast("ServingNet", member).on_plane(mel_spectrogram) for member in self.members]
        upright = mel_spectrogram.new_zeros(())
        position, covariance = merged(
            torch.stack([units for units, _, _ in said]),
            torch.stack(
                [covariance_of(sigma, upright if tilt is None else tilt) for _, sigma, tilt in said]
            ),
        )
        sigma, correlation = sigma_and_correlation(covariance * self.log_temperature.exp())
        leans = any(tilt is not None for _, _, tilt in said)
        return position, sigma, correlation if leans else None

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit the temperature on sessions that no member was trained on.

        Args:
            batches: With `features`, as `forward` takes them, and `position_deg`, `(batch, 2)`.

        Raises:
            ModelError: If there are fewer than 30 sessions; the temperature is then 1.
        """
        self.log_temperature.zero_()
        squares: list[float] = []
        for batch in batches:
            position, sigma, tilt = self.on_plane(batch["features"])
            error = _target(self.region, batch) - position
            correlation = torch.zeros(()) if tilt is None else tilt
            squares += mahalanobis_squared(error, sigma, correlation).tolist()
        self.log_temperature.fill_(math.log(temperature(squares)))


class TimedEnsembleNet(nn.Module):
    """A model file of several networks that take times of arrival beside the spectrograms.

    Args:
        members: At least one; of the same region, receivers and normalisation.
        names: What errors call them; member 1, member 2 ... by default.

    Raises:
        ModelError: If two members cannot be merged.
    """

    log_temperature: Tensor
    log_temperature_of_levels: Tensor

    def __init__(self, members: Sequence[TimedServingNet], names: Sequence[str] = ()) -> None:
        super().__init__()
        called = _named(members, names)
        _require_same_features([member.levels for member in members], called)
        _require_same_places(members, called)
        self.members = nn.ModuleList(members)
        self.region = members[0].levels.region
        self.register_buffer("log_temperature", torch.zeros(()))
        self.register_buffer("log_temperature_of_levels", torch.zeros(()))

    def forward(self, mel_spectrogram: Tensor, arrival_times: Tensor) -> tuple[Tensor, ...]:
        """Positions, uncertainties, correlations and what remains unexplained.

        See `TimedServingNet`; the last is the mean of the members'.
        """
        return as_served(self.region, *self.on_plane(mel_spectrogram, arrival_times))

    def on_plane(
        self, mel_spectrogram: Tensor, arrival_times: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same in plane units, as `TimedServingNet.on_plane`."""
        said = [
            cast("TimedServingNet", member).on_plane(mel_spectrogram, arrival_times)
            for member in self.members
        ]
        positions, covariances, unexplained = (
            torch.stack(part) for part in zip(*said, strict=True)
        )
        position, covariance = merged(positions, covariances)
        widening = torch.where(
            _timed(arrival_times), self.log_temperature, self.log_temperature_of_levels
        ).exp()
        return position, covariance * widening.unsqueeze(1), unexplained.mean(dim=0)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit the temperature of sessions with times on those that no member was trained on.

        Args:
            batches: With `features` and `arrivals`, as `forward` takes them, and
                `position_deg`, `(batch, 2)`.

        Raises:
            ModelError: If fewer than 30 sessions have two receivers or more; the temperature is
                then 1.
        """
        self.log_temperature.zero_()
        self.log_temperature.fill_(math.log(temperature(self._squares(batches))))

    @torch.no_grad()
    def calibrate_levels(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Fit the temperature of sessions without times, on sessions as if they had none.

        Args:
            batches: As `calibrate` takes them.

        Raises:
            ModelError: If there are fewer than 30 sessions; the temperature is then 1.
        """
        self.log_temperature_of_levels.zero_()
        squares = self._squares(batches, silent=True)
        self.log_temperature_of_levels.fill_(math.log(temperature(squares)))

    def _squares(
        self, batches: Iterable[Mapping[str, Any]], *, silent: bool = False
    ) -> list[float]:
        """Squared distances of the truths in deviations, of sessions with times or as without."""
        squares: list[float] = []
        for batch in batches:
            arrivals = batch["arrivals"] * (0 if silent else 1)
            position, covariance, _ = self.on_plane(batch["features"], arrivals)
            error = _target(self.region, batch) - position
            square = mahalanobis_squared(error, *sigma_and_correlation(covariance))
            squares += square[_timed(arrivals) ^ silent].tolist()
        return squares


def merged(positions: Tensor, covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the mixture of equally likely Gaussians.

    Args:
        positions: `(members, ..., 2)`.
        covariances: East-east, east-north, north-north: `(members, ..., 3)`.

    Returns:
        `(..., 2)` and `(..., 3)`.
    """
    centre = positions.mean(dim=0)
    # Of what is left about the centre: the squares of positions would swallow those of metres.
    east, north = (positions - centre).unbind(dim=-1)
    spread = torch.stack([east.square(), east * north, north.square()], dim=-1)
    return centre, (covariances + spread).mean(dim=0)


def _timed(arrival_times: Tensor) -> Tensor:
    """Of which sessions the times were used, bool `(batch,)`."""
    return arrival_times[..., 0].sum(dim=1) >= FEWEST_TIMES


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
