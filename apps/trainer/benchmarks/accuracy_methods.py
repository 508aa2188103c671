"""Every method as a function from sessions to positions with ellipses."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch
from accuracy_sessions import BASE
from heimdall_models import (
    EnsembleNet,
    LocalizationConfig,
    LocalizationModule,
    Region,
    ServingNet,
)
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.baselines.time_differences import locate_by_time_differences
from heimdall_models.levels.received_power import ReceivedPower
from heimdall_models.serving import TimedServingNet
from heimdall_models.timing.module import TimingConfig, TimingModule
from heimdall_models.timing.receivers import ReceiverSite
from heimdall_models.trained import Trained
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

SITES = tuple(
    ReceiverSite(s.name, s.latitude_deg, s.longitude_deg, s.altitude_m or 0.0)
    for s in BASE.stations
)
BATCH = 100


@dataclass(frozen=True)
class Answer:
    """Positions `(n, 2)` degrees, sigmas `(n, 2)` m, correlations `(n,)`; some may be missing."""

    position_deg: np.ndarray
    sigma_m: np.ndarray
    correlation: np.ndarray

    @classmethod
    def of_covariance(cls, position_deg, covariance_m2):
        """From covariances `(n, 2, 2)`."""
        sigma = np.sqrt(np.diagonal(covariance_m2, axis1=1, axis2=2))
        correlation = covariance_m2[:, 0, 1] / sigma.prod(axis=1)
        return cls(position_deg, sigma, correlation)


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
        def locate(sessions):
            heard = ReceivedPower.joined(ReceivedPower.of(part) for part in _parts(sessions.mel))
            return Answer.of_covariance(*estimator(heard.signal_db(noise), heard.present))

        return locate

    return {name: method(fit(training)) for name, fit in LEVEL_BASELINES.items()}


def least_squares(region):
    """Time differences as textbooks solve them, clocks taken to be good to 0.1 us."""

    def locate(sessions):
        found = locate_by_time_differences(sessions.arrivals, SITES, region)
        return Answer.of_covariance(found.position_deg, found.covariance_m2)

    return locate


def trained_levels(train, validation, region, *, backbone, epochs, learning_rate):
    """The network of spectrograms: its module, and how many seconds it took."""
    started = time.monotonic()
    mean, std = (
        getattr(train.mel, name)(axis=(0, 3), keepdims=True)[0] for name in ("mean", "std")
    )
    config = LocalizationConfig(
        n_receivers=len(SITES), backbone=backbone, learning_rate=learning_rate, tilted=True
    )
    module = LocalizationModule(config, region, mean, std)
    learn = _items(train)
    module.learn_levels(learn)
    with tempfile.TemporaryDirectory() as folder:
        saver = ModelCheckpoint(folder, monitor="val/loss")
        trainer = _trainer(epochs, [saver])
        trainer.fit(
            module,
            DataLoader(learn, 64, shuffle=True),
            DataLoader(_items(validation), BATCH),
        )
        best = Trained.open(saver.best_model_path).single.module
    return best, time.monotonic() - started


def trained_timing(train, validation, region, *, epochs, seed=42):
    """The network of times: calibrated on the validation sessions; and its seconds."""
    started = time.monotonic()
    module = TimingModule(TimingConfig(seed=seed), region, SITES)
    sides = [
        [
            {"arrivals": rows, "target": target}
            for rows, target in zip(*_timed(sessions, region), strict=True)
        ]
        for sessions in (train, validation)
    ]
    trainer = _trainer(epochs, [], gradient_clip=1.0)
    trainer.fit(module, DataLoader(sides[0], 128, shuffle=True), DataLoader(sides[1], 128))
    module.eval()
    module.calibrate(*_timed(validation, region))
    return module.net, time.monotonic() - started


def served(net):
    """A network as its model file answers: spectrograms, and times where it takes them."""

    def locate(sessions):
        levels_alone = isinstance(net, ServingNet | EnsembleNet)
        inputs = [sessions.mel] if levels_alone else [sessions.mel, sessions.arrivals]
        parts = []
        with torch.no_grad():
            for begin in range(0, len(sessions.mel), BATCH):
                chunk = [torch.from_numpy(array[begin : begin + BATCH]) for array in inputs]
                parts.append([out.double().numpy() for out in net(*chunk)])
        position, sigma, *rest = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Answer(position, sigma, rest[0] if rest else np.zeros(len(position)))

    return locate


def timed(module, timing):
    """Spectrograms and times in one model."""
    return TimedServingNet(module.serving_net(), timing).eval()


def _trainer(epochs, callbacks, gradient_clip=1.0):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        gradient_clip_val=gradient_clip,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )


def _items(sessions):
    return [
        {"features": mel, "position_deg": position, "session_id": str(n)}
        for n, (mel, position) in enumerate(zip(sessions.mel, sessions.truth_deg, strict=True))
    ]


def _timed(sessions, region):
    target = torch.from_numpy(region.to_plane(sessions.truth_deg)).float()
    return torch.from_numpy(sessions.arrivals), target


def _parts(mel):
    return np.array_split(mel, max(1, len(mel) // BATCH))
