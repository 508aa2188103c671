"""What levels can do: baselines and the network on simulated sessions, as a markdown table.

    python packages/heimdall-models/benchmarks/bench_levels.py [options]

Needs heimdall-data and heimdall-features, which simulate. Sessions of seed 1 to learn from, of
seed 2, on sites of their own, to judge by. The levels that baselines get are the network's:
power over noise, read from the features. Of the sessions to learn from, the network gets
nine tenths, and chooses its epoch by the rest.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from heimdall_features import FeatureConfig, FeatureExtractor
from heimdall_models import LocalizationConfig, LocalizationModule, Region, localization_metrics
from heimdall_models.baselines import LEVEL_BASELINES, TrainingLevels
from heimdall_models.levels.grid import Grid
from heimdall_models.levels.level_map import LevelMap, TransmitPowers
from heimdall_models.levels.received_power import ReceivedPower
from heimdall_models.trained import Trained
from heimdall_simulation import NO_MISHAPS, NORTHWEST_ITALY, simulate_sessions
from heimdall_simulation.geometry import east_north_m, slant_range_m
from heimdall_simulation.propagation import log_distance_loss_db
from heimdall_simulation.receiver import thermal_noise_dbm
from heimdall_simulation.world import world_of
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

RATE_HZ = 48_000
LEARN_SHARE = 0.9


def arguments():
    """What to run; the defaults are those of the README's first table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--receivers", default="", help="names, comma-separated; default all seven")
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--fading", type=float, default=3.0, help="dB")
    parser.add_argument("--epochs", type=int, default=0, help="0 only learns levels")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--cost", action="store_true", help="only time the fits to many sessions")
    parser.add_argument("--keep", type=Path, help="folder in which simulated features are kept")
    return parser.parse_args()


def heard(n_sessions, seed, options, names):
    """Features of the receivers named `(n, receivers, 128, 32)` in dB, positions `(n, 2)`."""
    everyone = tuple(station.name for station in NORTHWEST_ITALY.stations)
    columns = [everyone.index(name) for name in names]
    kept = options.keep and options.keep / f"{seed}-{options.fading:g}.npz"
    if kept and kept.exists():
        with np.load(kept) as arrays:
            features, positions = arrays["features"], arrays["positions"]
    else:
        features, positions = simulated(n_sessions, seed, options.fading, everyone)
        if kept:
            np.savez(kept, features=features, positions=positions)
    return features[:n_sessions, columns], positions[:n_sessions]


def simulated(n_sessions, seed, fading_db, names):
    """Features `(n, receivers, 128, 32)` in dB and positions `(n, 2)` in degrees."""
    scenario = replace(
        NORTHWEST_ITALY, mishaps=NO_MISHAPS, n_samples=33_600, fading_sigma_db=fading_db
    )
    extract = FeatureExtractor(FeatureConfig(receivers=names, sample_rate_hz=RATE_HZ))
    features = np.empty((n_sessions, len(names), 128, 32), dtype=np.float32)
    positions = np.empty((n_sessions, 2))
    for row, session in enumerate(simulate_sessions(n_sessions, seed, scenario, workers=2)):
        recordings = {}
        for recording in session.new_session.measurements:
            i, q = np.load(io.BytesIO(recording.payload)).astype(np.float32) / 32768
            recordings[recording.station.name] = (i + 1j * q, RATE_HZ)
        features[row] = extract({name: recordings[name] for name in names})
        positions[row] = session.truth.source.position_deg
    return features, positions


def row(name, position_deg, sigma_m, correlation, truth_deg, seconds):
    """One line of the table."""
    found = localization_metrics(position_deg, sigma_m, truth_deg, correlation)
    print(
        f"| {name} | {found['error_m_median'] / 1e3:.1f} | {found['error_m_p95'] / 1e3:.0f} | "
        f"{100 * found['coverage_68']:.0f} / {100 * found['coverage_95']:.0f} | "
        f"{found['nll']:.2f} | {seconds:.0f} |",
        flush=True,
    )


def baselines(train, test, receivers_deg, region):
    """A line for every level baseline."""
    power = ReceivedPower.joined(ReceivedPower.of(part) for part in np.array_split(train[0], 60))
    noise = power.noise()
    new = ReceivedPower.joined(ReceivedPower.of(part) for part in np.array_split(test[0], 10))
    training = TrainingLevels(
        power.signal_db(noise), power.present, train[1], receivers_deg, region
    )
    for name, fit in LEVEL_BASELINES.items():
        started = time.monotonic()
        answer = fit(training)(new.signal_db(noise), new.present)
        of_baseline(name, answer, test[1], time.monotonic() - started)


def of_baseline(name, answer, truth_deg, seconds):
    """A line for a method that answers with covariances."""
    correlation = answer.covariance_m2[:, 0, 1] / answer.sigma_m.prod(axis=1)
    row(name, answer.position_deg, answer.sigma_m, correlation, truth_deg, seconds)


def bound(train, test, names, region, options):
    """A line for the level likelihood on the simulator's own map: no method can know more."""
    started = time.monotonic()
    scenario = replace(NORTHWEST_ITALY, fading_sigma_db=options.fading)
    grid = Grid.of_squares(region.to_plane(train[1]), 192)
    places = region.to_degrees(grid.cells)
    middle_deg = (sum(scenario.latitude_deg) / 2, sum(scenario.longitude_deg) / 2)
    offsets_m = np.stack([east_north_m(place, middle_deg) for place in places])
    worlds = {world.station.name: world for world in world_of(scenario)}
    mean_db = np.stack(
        [true_levels_db(worlds[name], places, offsets_m, scenario) for name in names]
    )
    low_dbm, high_dbm = scenario.radiated_dbm
    power_variance = (high_dbm - low_dbm) ** 2 / 12 + scenario.session_power_sigma_db**2
    true_map = LevelMap(
        region=region,
        grid=grid,
        mean_db=mean_db,
        own_variance=np.full(len(places), max(options.fading**2, 0.1)),
        common_variance=np.zeros(len(places)),
        powers=TransmitPowers.spaced(power_variance),
        known=np.ones(len(names), dtype=bool),
    )
    power = ReceivedPower.joined(ReceivedPower.of(part) for part in np.array_split(test[0], 10))
    answer = true_map(power.signal_db(power.noise()), power.present)
    seconds = time.monotonic() - started
    of_baseline("bound: the simulator's own map", answer, test[1], seconds)


def true_levels_db(world, places, offsets_m, scenario):
    """What one station reads of a transmitter of mean power and height, without fading."""
    height_m = sum(scenario.antenna_height_m) / 2
    station = world.station
    distance_m = np.array(
        [slant_range_m(at, height_m, station.position_deg, station.altitude_m) for at in places]
    )
    loss_db = log_distance_loss_db(
        distance_m,
        sum(scenario.frequency_hz) / 2,
        exponent=scenario.path_loss_exponent,
        reference_m=scenario.reference_m,
    )
    shadows_db = np.concatenate(
        [world.shadows.loss_db(part) for part in np.array_split(offsets_m, 50)]
    )
    noise_dbm = thermal_noise_dbm(scenario.sample_rate_hz, scenario.noise_figure_db)
    gain_db = scenario.noise_floor_dbfs - noise_dbm + world.gain_db
    return sum(scenario.radiated_dbm) / 2 - loss_db - shadows_db + gain_db


def items(features, positions):
    """Samples as the module takes them."""
    return [
        {"features": f, "position_deg": p, "session_id": str(n)}
        for n, (f, p) in enumerate(zip(features, positions, strict=True))
    ]


def network(train, test, region, options):
    """Lines for the network: once it knows levels, and after training."""
    pl.seed_everything(42, verbose=False)
    started = time.monotonic()
    n_learn = int(LEARN_SHARE * len(train[0]))
    mean, std = (
        getattr(train[0][:n_learn], name)(axis=(0, 3), keepdims=True)[0] for name in ("mean", "std")
    )
    config = LocalizationConfig(
        n_receivers=train[0].shape[1],
        backbone=options.backbone,
        learning_rate=options.learning_rate,
        tilted=True,
    )
    module = LocalizationModule(config, region, mean, std)
    learn = items(train[0][:n_learn], train[1][:n_learn])
    module.learn_levels(learn)
    answered(f"{options.backbone}, levels learned", module, test, started)
    if options.epochs:
        choose = items(train[0][n_learn:], train[1][n_learn:])
        best = trained(module, learn, choose, options.epochs)
        answered(f"the same, {options.epochs} epochs", best, test, started)


def trained(module, learn, choose, epochs):
    """The module after the epoch that the rest of the training sessions prefer."""
    saver = ModelCheckpoint(monitor="val/loss", mode="min")
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        callbacks=[saver],
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0,
    )
    trainer.fit(module, DataLoader(learn, 64, shuffle=True), DataLoader(choose, 100))
    return Trained.open(saver.best_model_path).single.module


def answered(name, module, test, started):
    """A line for the file that would be served."""
    seconds, serving = time.monotonic() - started, module.serving_net()
    with torch.no_grad():
        parts = [serving(torch.from_numpy(part)) for part in np.array_split(test[0], 10)]
    answer = (torch.cat(column).double().numpy() for column in zip(*parts, strict=True))
    row(name, *answer, test[1], seconds)
    module.train()


COSTS = ((600, 7), (2_000, 30), (6_000, 7), (6_000, 30), (20_000, 7), (20_000, 30))
"""Sessions and receivers."""


def costs():
    """Print how long the fits take, and the most memory that the process has had so far."""
    print("| sessions | receivers | path-loss law, s | kriged map, s | most memory, GB |")
    print("|---|---|---|---|---|")
    region = Region(45.0, 8.2, 90_000.0)
    for n_sessions, n_receivers in COSTS:
        rng = np.random.default_rng(0)
        places = rng.uniform(-0.9, 0.9, (n_sessions, 2))
        receivers = rng.uniform(-0.9, 0.9, (n_receivers, 2))
        distance = np.linalg.norm(places[:, None] - receivers, axis=-1)
        waves = rng.normal(0, 6, (2, n_receivers))
        levels = -30 * np.log10(distance + 0.01) + rng.normal(0, 4, (n_sessions, 1))
        levels += 5 * np.sin(places @ waves) + rng.normal(0, 3, levels.shape)
        present = rng.random(levels.shape) < 0.9
        given = region.to_degrees(places), region.to_degrees(receivers), region
        training = TrainingLevels(levels, present, *given)
        seconds = []
        for name in ("level likelihood, path-loss law", "level likelihood, kriged map"):
            started = time.monotonic()
            LEVEL_BASELINES[name](training)
            seconds.append(time.monotonic() - started)
        memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        row = f"| {n_sessions:,} | {n_receivers} | {seconds[0]:.0f} | {seconds[1]:.0f} |"
        print(f"{row} {memory_gb:.1f} |", flush=True)


def main():
    """Print the table."""
    options = arguments()
    if options.cost:
        costs()
        return
    stations = {station.name: station for station in NORTHWEST_ITALY.stations}
    names = tuple(options.receivers.split(",")) if options.receivers else tuple(stations)
    train = heard(options.train, 1, options, names)
    test = heard(options.test, 2, options, names)
    region = Region.around(train[1][:, 0], train[1][:, 1])
    receivers_deg = np.array([stations[name].position_deg for name in names])
    print(
        f"{len(names)} receivers, {options.train} sessions to learn from, {options.test} to judge "
        f"by, {options.fading:g} dB of fading\n"
    )
    print("| method | median, km | 95 %, km | coverage 68 / 95 | NLL, nats | seconds |")
    print("|---|---|---|---|---|---|")
    baselines(train, test, receivers_deg, region)
    network(train, test, region, options)
    if options.fading:  # Without it, what levels tell is finer than any grid.
        bound(train, test, names, region, options)


if __name__ == "__main__":
    main()
