"""Every method as a function from sessions to positions with their uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accuracy_sessions import BASE, FREQUENCY_HZ
from heimdall_locate import Candidate, Site, from_gaussians, locate
from heimdall_models import EnsembleNet, Region, ServingNet
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.levels.received_power import ReceivedPower
from heimdall_models.metrics import Posteriors, of_ellipses, offset_east_north_m
from heimdall_models.timing.receivers import ReceiverSite
from heimdall_models.trained import Trained
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.console import about_levels
from heimdall_trainer.pipeline import TrainingPipeline

SITES = tuple(
    ReceiverSite(s.name, s.latitude_deg, s.longitude_deg, s.altitude_m or 0.0)
    for s in BASE.stations
)
PLACES = tuple(
    Site(s.name, s.latitude_deg, s.longitude_deg, s.altitude_m or 0.0) for s in BASE.stations
)
BATCH = 100
CLOCK_S = 1e-7
"""Deviation that the receivers claim for their clocks, under every condition."""


@dataclass(frozen=True)
class Answer:
    """Positions with ellipses, or with posteriors of any shape."""

    position_deg: np.ndarray
    """`(n, 2)`."""
    sigma_m: np.ndarray
    """`(n, 2)`."""
    correlation: np.ndarray
    """`(n,)`."""
    nll: np.ndarray | None = None
    """`(n,)`: nats of the truth, positions in kilometres; None for that of the ellipse."""
    inside: np.ndarray | None = None
    """`(n,)`: probability of the smallest region that holds the truth; None for ellipses."""
    posteriors: Posteriors | None = None
    """Mixtures of a network that answers with several Gaussians."""

    @classmethod
    def of_covariance(cls, position_deg, covariance_m2, **posterior):
        """From covariances `(n, 2, 2)`."""
        sigma = np.sqrt(np.diagonal(covariance_m2, axis1=1, axis2=2))
        correlation = covariance_m2[:, 0, 1] / sigma.prod(axis=1)
        return cls(position_deg, sigma, correlation, **posterior)

    def smallest_region(self, truth_deg):
        """Probability of the smallest region that holds each truth, `(n,)`."""
        if self.inside is not None:
            return self.inside
        offset_m = offset_east_north_m(self.position_deg, truth_deg)
        east, north = (offset_m / self.sigma_m).T
        across = (north - self.correlation * east) ** 2 / (1 - self.correlation**2)
        return -np.expm1(-(east**2 + across) / 2)


def region_of(sessions):
    """The plane of the training transmitters."""
    return Region.around(*sessions.truth_deg.T)


def level_methods(train, region):
    """Every level baseline, fitted: name to function."""
    power = ReceivedPower.joined(ReceivedPower.of(part) for part in _parts(train.mel))
    noise = power.noise()
    receivers_deg = np.array([(s.latitude_deg, s.longitude_deg) for s in SITES])
    training = TrainingLevels(
        power.signal_db(noise), power.present, train.truth_deg, receivers_deg, region
    )

    def method(estimator):
        def answer(sessions):
            heard = ReceivedPower.joined(ReceivedPower.of(part) for part in _parts(sessions.mel))
            return Answer.of_covariance(*estimator(heard.signal_db(noise), heard.present))

        return answer

    return {name: method(fit(training)) for name, fit in LEVEL_BASELINES.items()}


def least_squares(region):
    """Time differences as textbooks solve them, clocks taken to be good to 0.1 us."""

    def answer(sessions):
        found = locate_by_time_differences(sessions.arrivals, SITES, region)
        return Answer.of_covariance(found.position_deg, found.covariance_m2)

    return answer


def located(pool, levels):
    """`heimdall locate --model`: the levels' answer as prior; its own density and regions."""

    def answer(sessions):
        prior = levels(sessions)
        posteriors = prior.posteriors or of_ellipses(
            prior.position_deg, prior.sigma_m, prior.correlation
        )
        tasks = zip(sessions.arrivals, sessions.truth_deg, *posteriors, strict=True)
        found = pool.starmap(_located, tasks, chunksize=10)
        position, covariance, nll, inside = map(np.array, zip(*found, strict=True))
        return Answer.of_covariance(position, covariance, nll=nll, inside=inside)

    return answer


def _located(rows, truth_deg, weights, means_deg, covariances_m2):
    candidates = [
        Candidate(
            float(weight), *map(float, mean), ((float(ee), float(en)), (float(en), float(nn)))
        )
        for weight, mean, (ee, nn, en) in zip(weights, means_deg, covariances_m2, strict=True)
    ]
    position = from_gaussians(candidates)
    heard = rows[:, 0] > 0
    if heard.any():
        position = locate(
            np.where(heard, rows[:, 1] * 1e-6, np.nan),
            PLACES,
            sigma_s=rows[:, 2] * 1e-6,
            frequency_hz=FREQUENCY_HZ,
            clock_sigma_s=CLOCK_S,
            prior=position,
        )
    first = np.array([position.latitude_deg, position.longitude_deg])
    log_density = float(position.log_density(*truth_deg)) + 2 * math.log(1000)
    inside = float(position.smallest_region(*truth_deg))
    return first, np.array(position.covariance_m2), -log_density, inside


def trained(parts, options, folder, seed=42):
    """The network of `heimdall train --features mel+timing`, and seconds of its stages."""
    config = TrainingConfig(
        features="mel+timing",
        backbone=options.backbone,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=64,
        tilted=True,
        n_components=5,
        accelerator="cpu",
        seed=seed,
        checkpoint_dir=Path(folder),
    )
    pipeline = TrainingPipeline(config, Connections())
    outcome = pipeline.train(parts)
    print(about_levels(outcome.metrics))
    return Trained.open(outcome.checkpoint).single, pipeline.timings


def served(net):
    """A network as its model file answers: spectrograms, and times where it takes them."""

    def answer(sessions):
        levels_alone = isinstance(net, ServingNet | EnsembleNet)
        inputs = [sessions.mel] if levels_alone else [sessions.mel, sessions.arrivals]
        parts = []
        with torch.no_grad():
            for begin in range(0, len(sessions.mel), BATCH):
                chunk = [torch.from_numpy(array[begin : begin + BATCH]) for array in inputs]
                parts.append([out.double().numpy() for out in net(*chunk)])
        position, sigma, *rest = (np.concatenate(column) for column in zip(*parts, strict=True))
        tilt = rest[0] if rest and rest[0].ndim == 1 else np.zeros(len(position))
        posteriors = Posteriors(*rest[-3:]) if rest and rest[-1].ndim == 3 else None
        return Answer(position, sigma, tilt, posteriors=posteriors)

    return answer


def _parts(mel):
    return np.array_split(mel, max(1, len(mel) // BATCH))
