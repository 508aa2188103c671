"""Spectrograms and times of arrival in one model: one small run, and what it left.

On a real Postgres, a real S3 server and a real MLflow store, from KiwiSDR's files on.
"""

import json
import uuid
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import psycopg
import pytest
import torch
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.ingest.ingest import ingest
from heimdall_data.recordings.clocked import clocked
from heimdall_evaluation.baselines import SPECTROGRAMS_ALONE, TIME_DIFFERENCES
from heimdall_export.serving.predictor import Predictor
from heimdall_features import ArrivalExtractor
from heimdall_locate import Calibration
from heimdall_models import ModelError
from heimdall_models.errors import TrainingError
from heimdall_models.trained import Trained
from heimdall_models.training.checkpoint_files import note_finished
from heimdall_models.training.resume import exported_network
from heimdall_models.training.timing import TimedParts, TimedSessions, train_timing
from heimdall_simulation import NORTHWEST_ITALY, Mishaps, simulate_sessions
from heimdall_trainer.calibration import delays_of_channels, learned_delays
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.models import opened_model
from heimdall_trainer.pipeline import TrainingPipeline
from mlflow import MlflowClient
from psycopg import sql

pytestmark = pytest.mark.slow

N_SESSIONS = 120
INPUTS = ("features", "arrivals")
STATIONS = ("Coazze", "Torino", "Genova", "Milano-Baggio", "Montanaro")
TIMED = TrainingConfig(
    features="mel+timing",
    epochs=1,
    timing_epochs=3,
    batch_size=16,
    backbone="test_convnext",
    n_receivers=len(STATIONS),
    validation_split=0.3,
    test_split=0.15,
    seed=7,
)


@pytest.fixture(scope="module")
def connections(stack, tmp_path_factory):
    """Connections to a catalogue of its own, whose recordings have GNSS stamps."""
    name = f"timed_{uuid.uuid4().hex}"
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    there = replace(
        Connections.to_stack(stack),
        database_url=stack.database_url.rpartition("/")[0] + f"/{name}",
        state_dir=tmp_path_factory.mktemp("timed"),
    )
    scenario = replace(
        NORTHWEST_ITALY,
        name="timed",
        stations=tuple(s for s in NORTHWEST_ITALY.stations if s.name in STATIONS),
        recording_format="kiwi_wav",
        n_samples=12_288,
        mishaps=Mishaps(pending=0, rejected=0, failed=0, no_position=0),
    )
    s3 = there.need_s3()
    made = (session.new_session for session in simulate_sessions(N_SESSIONS, 3, scenario))
    with Catalogue(there.need_database()) as catalogue:
        catalogue.create_schema()
        ingest(catalogue, ObjectStore(s3, s3.raw_iq_bucket), made, progress=False)
    return there


@pytest.fixture(scope="module")
def finished(connections):
    """One whole run."""
    return TrainingPipeline(TIMED, connections).run()


def baseline(finished, name):
    """One of the methods beside the model."""
    found = finished.delivery.evaluated.baselines
    return next(result for result in found if result.name == name)


def inputs(dataset):
    """Features and arrival times of all sessions, as tensors."""
    samples = [dataset[index] for index in range(len(dataset))]
    return [torch.from_numpy(np.stack([s[name] for s in samples])) for name in INPUTS]


def test_times_make_positions_far_better(finished):
    """This is what GNSS clocks are bought for; and the report says what each part is worth."""
    evaluated = finished.delivery.evaluated
    median_m = np.median(evaluated.evaluation.error_m)
    alone_m = np.median(baseline(finished, SPECTROGRAMS_ALONE).error_m)
    assert median_m < 3_000
    assert median_m < alone_m / 5
    assert evaluated.metrics["test/error_m_median"] == pytest.approx(median_m)
    page = finished.report.read_text(encoding="utf-8")
    assert 'id="loss"' in page
    assert ">arrival times</h3>" in page
    assert f"Against {SPECTROGRAMS_ALONE}" in page
    assert f"Against {TIME_DIFFERENCES}" in page
    assert f"{SPECTROGRAMS_ALONE}, of the numbered sessions" in page
    assert "it converged in" in baseline(finished, TIME_DIFFERENCES).explanation


def test_the_exported_file_answers_from_recordings_as_the_network_does(finished):
    """It was asked in a process without torch, from samples and clocks on."""
    said = finished.delivery.evaluated.evaluation
    network = exported_network(Trained.open(finished.summary.checkpoint), finished.data)
    features, arrivals = inputs(finished.data.test)
    with torch.inference_mode():
        position, sigma, correlation, _ = (part.numpy() for part in network(features, arrivals))
    assert said.position_deg == pytest.approx(position, abs=2e-5)
    assert said.sigma_m == pytest.approx(sigma, rel=2e-2)
    assert said.correlation == pytest.approx(correlation, abs=2e-2)
    assert np.abs(said.correlation).max() > 0.1
    assert finished.delivery.parity.mean_difference < 1e-5


def test_a_service_gets_the_same_from_our_own_predictor(finished):
    """The evaluation must be of what services will get."""
    predictor = Predictor(finished.summary.onnx_path)
    recordings = finished.data.test.recordings(0)
    plain = {name: (one.iq, one.sample_rate_hz) for name, one in recordings.items()}
    estimate = predictor.predict({**plain, **clocked(recordings)})
    said = finished.delivery.evaluated.evaluation
    found = (estimate.latitude_deg, estimate.longitude_deg)
    assert found == pytest.approx(said.position_deg[0], abs=2e-5)
    assert estimate.correlation == pytest.approx(said.correlation[0], abs=2e-2)


def test_spectrograms_alone_are_what_the_network_of_spectrograms_says(finished):
    """The row of the table is of the very network that times were added to."""
    network = exported_network(Trained.open(finished.summary.checkpoint), finished.data).levels
    with torch.inference_mode():
        position, sigma, _ = network(inputs(finished.data.test)[0])
    alone = baseline(finished, SPECTROGRAMS_ALONE)
    assert alone.position_deg == pytest.approx(position.numpy(), abs=3e-5)
    assert alone.sigma_m == pytest.approx(sigma.numpy(), rel=1e-3)


def test_the_registered_model_loads_and_says_what_it_takes(connections, finished):
    """Deployment asks the registry, and the file for the rest."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(connections.tracking_uri())
    version = finished.summary.model_version
    try:
        with connections.artifact_store().environment():
            loaded = mlflow.onnx.load_model(f"models:/heimdall-localization-onnx/{version}")
    finally:
        mlflow.set_tracking_uri(before)
    assert [end.name for end in loaded.graph.input] == ["mel_spectrogram", "arrival_times"]
    session = onnxruntime.InferenceSession(finished.summary.onnx_path)
    metadata = session.get_modelmeta().custom_metadata_map
    stations = json.loads(metadata["heimdall.receivers"])
    heights = {station.name: station.altitude_m or 0.0 for station in finished.data.receivers}
    assert {entry["name"]: entry["altitude"] for entry in stations} == heights
    assert json.loads(metadata["heimdall.arrivals.config"])["receivers"] == list(heights)


def test_the_model_file_has_delays_of_the_training_part(finished):
    """`heimdall locate` subtracts them; what judges the model must not have taught it."""
    metadata = onnxruntime.InferenceSession(finished.summary.onnx_path).get_modelmeta()
    found = Calibration.from_metadata(metadata.custom_metadata_map)
    assert {one.name for one in found.receivers} == set(STATIONS)
    train = finished.data.train
    assert found == learned_delays(finished.data)
    assert found.n_sessions == len(TimedSessions.of(train, finished.data.region))
    # Simulated receivers have no delay, and stand where they are said to.
    assert all(abs(one.delay_s) < 5 * one.delay_sigma_s + 1e-7 for one in found.receivers)
    assert not any(one.position_fault for one in found.receivers)


def test_the_run_tells_of_both_networks(connections, finished):
    """Its final validation metrics are those of what was delivered."""
    run = MlflowClient(connections.tracking_uri()).get_run(finished.summary.run_id)
    for name in ("train/loss", "train/timing_loss", "val/timing_nll"):
        assert np.isfinite(run.data.metrics[name])
    assert run.data.params["features"] == "mel+timing"
    assert finished.summary.metrics["val/error_m_median"] < 3_000
    assert run.data.metrics["val/error_m_median"] == finished.summary.metrics["val/error_m_median"]


def test_a_checkpoint_is_exported_again_with_its_times(connections, finished):
    """Months later, without training."""
    checkpoint = Path(finished.summary.checkpoint)
    again = TrainingPipeline(
        replace(TIMED, export_only=True, checkpoint=(checkpoint,)), connections
    ).run()
    again_metadata, metadata = (
        onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        for path in (again.summary.onnx_path, finished.summary.onnx_path)
    )
    assert again_metadata["heimdall.calibration"] == metadata["heimdall.calibration"]
    for name in ("position_deg", "sigma_m", "correlation"):
        np.testing.assert_array_equal(
            getattr(again.delivery.evaluated.evaluation, name),
            getattr(finished.delivery.evaluated.evaluation, name),
        )


def test_a_checkpoint_is_not_exported_with_other_features(connections, finished):
    """Half a model must not pass for one; this is said before data is read."""
    checkpoint = Path(finished.summary.checkpoint)
    config = replace(TIMED, features="mel", export_only=True, checkpoint=(checkpoint,))
    with pytest.raises(TrainingError, match=r"trained with --features mel\+timing"):
        TrainingPipeline(config, connections).check()
    config = replace(config, features="mel+timing", checkpoint=(checkpoint.with_name("last.ckpt"),))
    with pytest.raises(TrainingError, match="trained with --features mel, and"):
        TrainingPipeline(config, connections).check()


def test_receivers_in_another_order_are_refused(finished):
    """Each row of the times belongs to a place."""
    data = replace(finished.data, receivers=finished.data.receivers[::-1])
    with pytest.raises(TrainingError, match="give --receivers '"):
        exported_network(Trained.open(finished.summary.checkpoint), data)


@pytest.fixture(scope="module")
def ensemble(connections, finished, tmp_path_factory):
    """Two members on the split of that run, merged, in one checkpoint."""
    config = replace(TIMED, ensemble=2, checkpoint_dir=tmp_path_factory.mktemp("ensemble"))
    return TrainingPipeline(config, connections).train(finished.data)


def test_an_ensemble_with_times_is_one_file_that_tilts(connections, finished, ensemble):
    """Merged from what each member makes of levels and times."""
    config = replace(TIMED, export_only=True, checkpoint=(ensemble.checkpoint,))
    delivery = TrainingPipeline(config, connections).run().delivery
    said = delivery.evaluated.evaluation
    assert delivery.parity.mean_difference < 1e-5
    assert delivery.metrics["test/error_m_median"] < 3_000
    known = Trained.open(ensemble.checkpoint).members[0].calibration
    assert known == learned_delays(finished.data).to_json()
    network = exported_network(Trained.open(ensemble.checkpoint), finished.data)
    features, arrivals = inputs(finished.data.test)
    with torch.inference_mode():
        each = [member(features, arrivals) for member in network.members]
        merged = network(features, arrivals)
    middle = np.mean([outputs[0].double().numpy() for outputs in each], axis=0)
    assert said.position_deg == pytest.approx(middle, abs=2e-5)
    assert said.sigma_m == pytest.approx(merged[1].numpy(), rel=2e-2)
    assert said.correlation == pytest.approx(merged[2].numpy(), abs=2e-2)


def test_a_member_that_lacks_its_times_is_given_them(connections, finished, ensemble, capsys):
    """Interrupted after the hours of the spectrograms, in the seconds of the times."""
    before = ensemble.checkpoint.read_bytes()
    member = ensemble.checkpoint.parent / "member-2"
    best = member / "calibrated.ckpt"
    note_finished(member, json.loads((member / "finished.json").read_text())["seed"], best)
    (member / "with-timing.ckpt").unlink()
    kept = best.stat().st_mtime_ns
    config = replace(TIMED, ensemble=2, checkpoint_dir=member.parent, resume_training=True)
    again = TrainingPipeline(config, connections).train(finished.data)
    assert again.checkpoint.read_bytes() == before
    assert again.metrics == ensemble.metrics
    assert best.stat().st_mtime_ns == kept
    # 36 validation sessions are enough to weigh the members' disagreement on.
    assert "disagreement" not in capsys.readouterr().err


def few(sessions, n):
    """The first of them."""
    return TimedSessions(sessions.arrivals[:n], sessions.target[:n], sessions.n_asked)


@pytest.fixture(scope="module")
def parts(finished):
    """The timed sessions of that run."""
    region = finished.data.region
    both = (finished.data.train, finished.data.validation)
    return TimedParts(*(TimedSessions.of(part, region) for part in both))


def test_the_same_seed_gives_the_same_network_of_times(finished, parts):
    """Nuisances, order, delays and weights included: it is the network that the run delivered."""
    delivered = Trained.open(finished.summary.checkpoint).single.timing.state_dict()
    data = finished.data
    delays_s, spreads_s = delays_of_channels(learned_delays(data), data.receivers)
    again = train_timing(
        parts, data, TIMED, receiver_delays_s=delays_s, receiver_delay_spreads_s=spreads_s
    )[0].state_dict()
    assert delivered.keys() == again.keys()
    assert all(torch.equal(values, again[name]) for name, values in delivered.items())
    assert torch.isfinite(again["unexplained_limit"])
    assert again["log_temperature"] != 0


def test_without_enough_sessions_to_calibrate_on_that_is_said(finished, parts, capsys):
    """An ellipse that nobody checked is not passed off as one that was."""
    config = replace(TIMED, timing_epochs=1)
    some = TimedParts(parts.train, few(parts.validation, 29))
    network, _ = train_timing(some, finished.data, config)
    assert "calibration takes 30" in capsys.readouterr().err
    assert network.log_temperature == 0


def test_too_few_sessions_with_clocks_are_refused_before_training(connections, finished):
    """Not after hours of training on spectrograms."""
    sessions = finished.data.train.sessions[:40]
    data = replace(finished.data, train=finished.data.train.subset(sessions))
    with pytest.raises(TrainingError, match=r"40 training sessions have arrival .* 50 or more"):
        TrainingPipeline(TIMED, connections).train(data)


def test_a_receiver_on_another_continent_is_one_error(finished, parts):
    """No plane serves both."""
    first = replace(finished.data.receivers[0], latitude_deg=-30.0, longitude_deg=150.0)
    data = replace(finished.data, receivers=(first, *finished.data.receivers[1:]))
    with pytest.raises(ModelError):
        train_timing(parts, data, TIMED)


def test_a_checkpoint_of_times_is_evaluated_as_what_it_is(connections, finished):
    """Its receivers are its own, whatever the flags say: another order would be another place."""
    other = replace(TIMED, features="mel", receivers=())
    asked = []

    def load(config):
        asked.append(config)
        return finished.data

    with opened_model(finished.summary.checkpoint, other, connections, load) as opened:
        assert ArrivalExtractor.from_metadata(opened.file.metadata) is not None
    assert asked[0].features == "mel+timing"
    assert asked[0].receivers == tuple(station.name for station in finished.data.receivers)
