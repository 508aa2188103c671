"""POWDER FRS: the whole pipeline trained on `train`, and every level baseline, on each other part.

The recordings are made of the readings, ingested into embedded servers, and trained on as
`heimdall train` does. The exported model file answers for the other parts' recordings.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from accuracy_judged import Judged, gaussian
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest.ingest import ingest
from heimdall_data.public.powder_frs import SAMPLE_RATE_HZ
from heimdall_export import Predictor
from heimdall_features import FeatureExtractor
from heimdall_models import error_m
from heimdall_models.baselines import LEVEL_BASELINES, PositionEstimate, TrainingLevels
from heimdall_models.calibration import ellipse_factor
from heimdall_models.levels.received_power import ReceivedPower
from heimdall_models.metrics import offset_east_north_m
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.pipeline import TrainingPipeline

MODEL = "model"
FIVE_NEAREST = "five nearest in level"
DISTANCES = ("median_m", "p95_m")
BLOCK_M = 200.0
"""Side of the squares that are resampled whole."""
TRAINING = TrainingConfig(
    backbone="convnext_atto",
    epochs=2,
    learning_rate=3e-4,
    batch_size=64,
    tilted=True,
    n_components=5,
    accelerator="cpu",
    # Transmitters stand along tracks: steps below 100 m join nearly all of them to one site.
    split_by="session",
    validation_split=0.15,
    test_split=0.05,
)


@dataclass(frozen=True, eq=False)
class PowderResults:
    """Every method on every part but `train`."""

    n_train: int
    n_known: int
    """Transmissions of `train`."""
    epochs: int
    n_receivers: int
    """That the model knows: those that heard anything in `train`."""
    level_error_db: tuple[float, float]
    """Root mean square and 95 % quantile of what levels read from IQ differ from readings."""
    methods: dict[str, dict[str, Judged]]
    """By part and method."""
    blocks: dict[str, list[str]]
    """By part, the square of each transmitter."""
    seconds: dict[str, float]


def powder_results(data, work, epochs=TRAINING.epochs, n_train=None):
    """Train, on at most `n_train` transmissions, and judge; servers are below `work`."""
    tests = sorted({*data.part.tolist()} - {"train"})
    rows = np.flatnonzero(data.part == "train")
    n_known = len(rows)
    if n_train is not None and n_train < n_known:
        part = data.part.astype(object)
        part[rows] = "not used"
        part[rows[np.linspace(0, n_known - 1, n_train).astype(int)]] = "train"
        data = replace(data, part=part)
    train = data.only("train")
    started, seconds = time.monotonic(), {}

    def tell(stage, done):
        seconds[stage] = time.monotonic() - started - sum(seconds.values())
        print(f"POWDER: {done}, {seconds[stage]:.0f} s", flush=True)

    with EmbeddedStack(work / "servers") as stack:
        connections = replace(Connections.to_stack(stack), state_dir=work / "state")
        s3 = connections.need_s3()
        with Catalogue(connections.need_database()) as catalogue:
            report = ingest(
                catalogue, ObjectStore(s3, s3.raw_iq_bucket), train.sessions(), progress=False
            )
        tell("ingestion", f"{report.objects_stored} recordings made and ingested")
        n_receivers = int(np.isfinite(train.level_db).any(axis=0).sum())
        config = replace(
            TRAINING, epochs=epochs, n_receivers=n_receivers, checkpoint_dir=work / "checkpoints"
        )
        outcome = TrainingPipeline(config, connections).run()
        tell("training", "trained, exported and evaluated")
        run = outcome.data
        power, truth_deg = levels_of(run.train)
        held_out, held_out_deg = levels_of(run.validation)
    predictor = Predictor(outcome.delivery.path)
    noise, region = power.noise(), run.region
    training = TrainingLevels(
        power.signal_db(noise),
        power.present,
        truth_deg,
        np.array([(r.latitude_deg, r.longitude_deg) for r in predictor.receivers]),
        region,
    )
    held_out_db = held_out.signal_db(noise)
    fitted = {
        name: calibrated(fit(training), held_out_db, held_out.present, held_out_deg)
        for name, fit in (LEVEL_BASELINES | {FIVE_NEAREST: five_nearest}).items()
    }
    tell("baselines", "baselines fitted")
    methods, blocks, differences = {}, {}, []
    for part in tests:
        asked = data.only(part)
        features = features_of(asked, predictor)
        heard = ReceivedPower.of(features)
        levels_db = heard.signal_db(noise)
        differences.append(differences_db(levels_db, heard.present, asked, predictor))
        batches = np.array_split(features, len(features) // 64 + 1)
        positions = [each for batch in batches for each in predictor.predict_features(batch)]
        methods[part] = {
            name: answered(estimate(levels_db, heard.present), asked.position_deg)
            for name, estimate in fitted.items()
        } | {MODEL: located(positions, asked.position_deg)}
        squares = np.floor(region.to_plane(asked.position_deg) * region.scale_m / BLOCK_M)
        blocks[part] = [f"{east:.0f} {north:.0f}" for east, north in squares]
        tell(part, f"{len(positions)} sessions of {part} judged")
    error_db = np.concatenate(differences)
    return PowderResults(
        n_train=len(truth_deg),
        n_known=n_known,
        epochs=epochs,
        n_receivers=n_receivers,
        level_error_db=(
            float(np.sqrt(np.mean(error_db**2))),
            float(np.quantile(np.abs(error_db), 0.95)),
        ),
        methods=methods,
        blocks=blocks,
        seconds=seconds,
    )


def levels_of(dataset):
    """Power at each receiver, and the transmitters' places, of a part's sessions."""
    power = ReceivedPower.joined(
        ReceivedPower.of(dataset[n]["features"][None]) for n in range(len(dataset))
    )
    return power, np.array([session.position_deg for session in dataset.sessions])


def calibrated(estimate, levels_db, present, truth_deg):
    """The same method with ellipses that hold their shares of these sessions."""
    found = estimate(levels_db, present)
    error_m = offset_east_north_m(found.position_deg, truth_deg)[:, :, None]
    squared = (error_m * np.linalg.solve(found.covariance_m2, error_m)).sum(axis=(1, 2))
    factor = ellipse_factor(squared)

    def answer(levels_db, present):
        given = estimate(levels_db, present)
        return given._replace(covariance_m2=factor * given.covariance_m2)

    return answer


def features_of(data, predictor):
    """Features `(n, receivers, bands, frames)` of made recordings; fill where a model has none."""
    extract = FeatureExtractor.from_metadata(predictor.metadata)
    known = {receiver.name for receiver in predictor.receivers}
    every = []
    for row in range(len(data.part)):
        made = data.recordings(row)
        heard = {name: (iq, SAMPLE_RATE_HZ) for name, iq in made.items() if name in known}
        nothing = np.full(extract.config.shape, extract.config.fill_db, np.float32)
        every.append(extract(heard) if heard else nothing)
    return np.stack(every)


def differences_db(levels_db, present, data, predictor):
    """Levels read from IQ less the readings, of all that were heard; their median is zero."""
    column = {station.name: n for n, station in enumerate(data.receivers)}
    channels = [column[receiver.name] for receiver in predictor.receivers]
    apart = (levels_db - data.level_db[:, channels])[present]
    return apart - np.median(apart)


def answered(estimate, truth_deg):
    """A baseline's answers: Gaussians."""
    offset_m = offset_east_north_m(estimate.position_deg, truth_deg)
    return gaussian(offset_m, estimate.covariance_m2)


def located(positions, truth_deg):
    """The served answers, by their own densities and regions."""
    found_deg = np.array([(each.latitude_deg, each.longitude_deg) for each in positions])
    asked = list(zip(positions, truth_deg.tolist(), strict=True))
    return Judged(
        error_m(found_deg, truth_deg),
        -np.array([float(position.log_density(*truth)) for position, truth in asked]),
        np.array([float(position.smallest_region(*truth)) for position, truth in asked]),
    )


def five_nearest(training):
    """Mean place of the five sessions with the nearest levels, absent ones as the faintest.

    Its ellipse is the covariance of errors on the training sessions, each left out of its own.
    """
    faintest = training.levels_db[training.present].min()

    def places(levels_db, present, n_left_out):
        levels = np.where(present, levels_db, faintest)
        known = np.where(training.present, training.levels_db, faintest)
        apart = (levels**2).sum(axis=1)[:, None] - 2 * levels @ known.T + (known**2).sum(axis=1)
        nearest = np.argsort(apart, axis=1)[:, n_left_out : 5 + n_left_out]
        return training.places[nearest].mean(axis=1)

    error = training.places - places(training.levels_db, training.present, 1)
    covariance_m2 = error.T @ error / len(error) * training.region.scale_m**2

    def estimate(levels_db, present):
        found_deg = training.region.to_degrees(places(levels_db, present, 0))
        return PositionEstimate(found_deg, np.tile(covariance_m2, (len(found_deg), 1, 1)))

    return estimate
