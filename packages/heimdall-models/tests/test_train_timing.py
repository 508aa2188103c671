"""Training of the network of times: the epoch that it keeps, and interruptions."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from heimdall_models import ModelError
from heimdall_models.timing.network import region_prior
from heimdall_models.training.checkpoint_files import checkpoints_in
from heimdall_models.training.options import TrainingOptions
from heimdall_models.training.timing import TimedParts, TimedSessions, train_timing
from timing_cases import REGION, SITES, arrivals, inside, positions_deg, units

OPTIONS = TrainingOptions(timing_epochs=4, accelerator="cpu", seed=3)


@dataclass
class Station:
    """A receiver of a catalogue."""

    name: str
    position_deg: tuple
    altitude_m: float


DATA = SimpleNamespace(
    receivers=[
        Station(site.name, (site.latitude_deg, site.longitude_deg), site.altitude_m)
        for site in SITES
    ],
    region=REGION,
    train=SimpleNamespace(sessions=[SimpleNamespace(id=str(n)) for n in range(60)]),
)


def sessions(n, seed, delays_us=0.0):
    """Timed sessions whose receivers are late by constant delays."""
    truth = positions_deg(n, seed)
    late_us = np.broadcast_to(delays_us, (n, len(SITES)))
    rows = torch.from_numpy(arrivals(truth, late_us=late_us, seed=seed + 100))
    return TimedSessions(rows, units(truth), n)


PARTS = TimedParts(sessions(60, 1), sessions(40, 2))


class Run:
    """A run that may be stopped when an epoch's metrics are logged."""

    run_id = run_name = "a run"

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.steps = []

    def log_metrics(self, metrics, step=0):
        """Keep the step; stop at that of Ctrl-C."""
        self.steps.append((step, metrics["val/timing_nll"]))
        if step == self.stop_at:
            raise KeyboardInterrupt


def weights(trained):
    """All numbers of a trained network."""
    return trained[0].state_dict()


@pytest.fixture(scope="module")
def uninterrupted():
    """One whole training."""
    return train_timing(PARTS, DATA, OPTIONS)


def same(one, other):
    """The same numbers, bit for bit."""
    return all(torch.equal(values, other[name]) for name, values in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(uninterrupted, tmp_path, stop_at):
    """After its last whole epoch, with the same order of sessions and the same nuisances."""
    with pytest.raises(KeyboardInterrupt):
        train_timing(PARTS, DATA, OPTIONS, Run(stop_at), folder=tmp_path)
    run = Run()
    again = train_timing(PARTS, DATA, OPTIONS, run, folder=tmp_path, resume=True)
    assert [step for step, _ in run.steps] == [*range(stop_at, 4)]
    assert same(weights(again), weights(uninterrupted))
    for one, other in zip(again[1].history, uninterrupted[1].history, strict=True):
        assert (one.epoch, one.val_loss) == (other.epoch, other.val_loss)


@pytest.mark.slow
def test_a_finished_training_is_not_repeated(uninterrupted, tmp_path):
    """Only the file with both networks was missing."""
    train_timing(PARTS, DATA, OPTIONS, folder=tmp_path)
    run = Run()
    again = train_timing(PARTS, DATA, OPTIONS, run, folder=tmp_path, resume=True)
    assert not run.steps
    assert same(weights(again), weights(uninterrupted))


@pytest.mark.slow
@pytest.mark.parametrize("resume", [True, False])
def test_another_training_in_the_folder_is_not_gone_on_with(uninterrupted, tmp_path, resume):
    """Delays that are known now change what the weights mean; and a new run is a new run."""
    earlier = {"receiver_delays_s": [1e-5] * 7} if resume else {}
    train_timing(PARTS, DATA, OPTIONS, folder=tmp_path, **earlier)
    run = Run()
    again = train_timing(PARTS, DATA, OPTIONS, run, folder=tmp_path, resume=resume)
    assert len(run.steps) == 4
    assert same(weights(again), weights(uninterrupted))


@pytest.mark.slow
def test_the_spectrograms_do_not_go_on_from_a_network_of_times(tmp_path):
    """Its checkpoints are younger than theirs, and of another network."""
    train_timing(PARTS, DATA, OPTIONS, folder=tmp_path)
    assert list(tmp_path.rglob("*.ckpt"))
    assert not checkpoints_in(tmp_path)


@pytest.mark.slow
def test_the_best_epoch_is_kept_not_the_last(tmp_path):
    """A rate at which training runs away: later epochs are worse than the first."""
    lost = TimedSessions(PARTS.train.arrivals, -PARTS.train.target, 60)
    parts = TimedParts(lost, PARTS.validation)
    run = Run()
    network, curve = train_timing(parts, DATA, OPTIONS, run, folder=tmp_path)
    losses = [loss for _, loss in run.steps]
    assert curve.best_epoch == int(np.argmin(losses)) == 0
    kept = torch.load(tmp_path / "timing" / "epoch=000.ckpt", weights_only=True)["state_dict"]
    for name, values in network.named_parameters():
        assert torch.equal(values, kept[f"net.{name}"])


@pytest.mark.slow
def test_delays_of_receivers_are_part_of_the_network():
    """The same delays in training and in service; without them its answers are kilometres off."""
    delays_us = np.array([40.0, -25, 0, 10, 0, 0, -60])
    parts = TimedParts(sessions(60, 1, delays_us), sessions(40, 2, delays_us))
    network, _ = train_timing(
        parts,
        DATA,
        OPTIONS,
        receiver_delays_s=delays_us * 1e-6,
        receiver_delay_spreads_s=[1e-7] * 7,
    )
    truth = positions_deg(200, 7)
    late_us = np.broadcast_to(delays_us, (200, 7))
    rows = torch.from_numpy(arrivals(truth, late_us=late_us, seed=8))
    with torch.no_grad():
        found = network(rows, region_prior(200))
    error_m = (found.position - units(truth)).norm(dim=1) * REGION.scale_m
    assert error_m.median() < 100
    assert inside(found, truth, 0.95) > 0.9


def test_delays_of_other_receivers_are_refused():
    """One number for each row of the times."""
    with pytest.raises(ModelError, match="each of 7 receivers"):
        train_timing(PARTS, DATA, OPTIONS, receiver_delays_s=[0.0] * 3)
