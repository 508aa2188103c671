"""A model file on recordings in memory: nothing of the trainer, no database, no object store."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import heimdall_evaluation
import numpy as np
import pytest
from heimdall_evaluation.dataset import RecordedSession, RecordedSessions
from heimdall_evaluation.errors import EvaluationError
from heimdall_evaluation.evaluate import evaluate_model, verdict
from heimdall_evaluation.judging import file_metrics
from heimdall_evaluation.model_file import SIGMA_BOUNDS_KEY, read_model
from heimdall_features import ClockedRecording, FeatureExtractor
from heimdall_models import localization_metrics
from hypothesis import given, settings
from hypothesis import strategies as st

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """A model file with its description of itself."""
    return read_model(tiny_model(tmp_path_factory.mktemp("model") / "model.onnx"))


@pytest.fixture(scope="module")
def dataset(model, recorded):
    """Six sessions of three transmitters; two lack a receiver."""
    sessions = [
        RecordedSession(
            id=name, source_name=f"{k // 2}", position_deg=(45.0, 8.0 + k), recordings=heard
        )
        for k, (name, heard) in enumerate(recorded(6).items())
    ]
    return RecordedSessions(sessions, model.metadata)


def test_a_model_file_is_evaluated_without_a_trainer(model, dataset, tiny_answers):
    """An inference team has a file and recordings, and asks what it is worth."""
    found = evaluate_model(
        model.path,
        dataset,
        dataset.recordings(),
        receivers=model.receivers,
        region=model.region,
        training=dataset,
        part="validation",
        trained_on={"session 1"},
    )
    evaluation = found.evaluation
    position_deg, sigma_m = tiny_answers([dataset[k]["features"] for k in range(6)])
    assert evaluation.position_deg == pytest.approx(position_deg, rel=1e-5)
    expected = localization_metrics(position_deg, sigma_m, evaluation.truth_deg)
    assert found.metrics["val/error_m_median"] == pytest.approx(expected["error_m_median"], 1e-3)
    assert evaluation.n_present.tolist() == [2, 3, 3, 2, 3, 3]
    assert evaluation.trained_on == (False, True, False, False, False, False)
    assert np.isnan(evaluation.snr_db).all()
    worst = [evaluation.session_ids[k] for k in np.argsort(-evaluation.error_m, kind="stable")]
    assert [shown.session_id for shown in found.spectrograms] == worst
    assert "region prior" in [baseline.name for baseline in found.baselines]


@given(st.lists(st.integers(0, 3_000), min_size=3, max_size=3), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_model_is_judged_on_the_time_that_receivers_share(model, starts, seed):
    """A service cuts recordings by their clocks; uncut, the file would be judged on other input."""
    rng = np.random.default_rng(seed)
    heard = {
        receiver.name: ClockedRecording(rng.normal(size=(15_000, 2)) @ [1, 1j], 12e3, start / 12e3)
        for receiver, start in zip(model.receivers, starts, strict=True)
    }
    session = RecordedSession(
        id="late", source_name="a", position_deg=(45.0, 8.0), recordings=heard
    )
    dataset = RecordedSessions([session], model.metadata)
    ((_, cut),) = dataset.recordings()
    extract = FeatureExtractor.from_metadata(model.metadata)
    judged = extract({name: (one.iq, one.sample_rate_hz) for name, one in cut.items()})
    assert judged == pytest.approx(dataset[0]["features"], abs=1e-3)


def test_recordings_of_other_sessions_are_refused(model, dataset):
    """Each answer would be compared with another session's truth."""
    swapped = list(dataset.recordings())[::-1]
    with pytest.raises(EvaluationError, match=r"'session 5'.*'session 0'"):
        evaluate_model(model.path, dataset, swapped, receivers=model.receivers, region=model.region)


@given(st.integers(1, 70), st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_files_metrics_do_not_depend_on_batches(model, tiny_answers, n, seed):
    """Variants of a model are chosen by them, on any number of sessions."""
    features = np.random.default_rng(seed).normal(-60, 20, (n, 3, 128, 32)).astype(np.float32)
    truth_deg = np.tile([45.0, 8.0], (n, 1))
    found = file_metrics(model.path, features, None, truth_deg)
    expected = localization_metrics(*tiny_answers(features), truth_deg)
    assert found["error_m_median"] == pytest.approx(expected["error_m_median"], rel=1e-3)
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-3)


def test_a_file_whose_answer_is_nan_has_nan_metrics(model):
    """Rounding may make NaN of a position; `auto` must skip that file, and not fail."""
    features = np.full((2, 3, 128, 32), 1e6, np.float32)
    figures = file_metrics(model.path, features, None, np.array([[45.0, 8.0], [45.1, 8.1]]))
    assert all(np.isnan(figures[name]) for name in ("error_m_median", "nll", "coverage_68"))


def test_what_is_not_a_model_file_is_named(tmp_path, tiny_model):
    """A wrong path, a truncated file and another tool's model are common mistakes."""
    with pytest.raises(EvaluationError, match=r"missing\.onnx"):
        read_model(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(EvaluationError, match=r"text\.onnx"):
        read_model(tmp_path / "text.onnx")
    other = read_model(tiny_model(tmp_path / "other.onnx", metadata={"a": "b"}))
    assert other.summary.sigma_bounds_m is None
    for name in ("region", "receivers"):
        with pytest.raises(EvaluationError, match=rf"other\.onnx.*heimdall\.{name}"):
            getattr(other, name)


@pytest.mark.parametrize("bounds", ["[" * 10**5, "9" * 5000, "[1]", "[null, 1]", "{}", "[1e999"])
def test_damaged_bounds_of_sigma_are_named(tmp_path, tiny_model, bounds):
    """The report is drawn last, after the whole evaluation."""
    path = tiny_model(tmp_path / "odd.onnx", metadata={SIGMA_BOUNDS_KEY: bounds})
    with pytest.raises(EvaluationError, match=rf"odd\.onnx: {SIGMA_BOUNDS_KEY}"):
        _ = read_model(path).summary


def test_the_readmes_examples_run(model, tmp_path, monkeypatch, capsys):
    """They are what people copy first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(model.path.read_bytes())
    blocks = README.read_text(encoding="utf-8").split("```python\n")[1:]
    for block in blocks:
        exec(compile(block.partition("```")[0], str(README), "exec"), {})
    assert len(blocks) == 2
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "compare.html").is_file()
    assert "too few" in capsys.readouterr().out


def test_the_package_knows_neither_data_nor_trainer():
    """It is installed where models serve, without Postgres, MinIO or Celery."""
    imported = set()
    for path in Path(heimdall_evaluation.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    ours = {name for name in imported if name.startswith("heimdall_")}
    known = ("features", "locate", "models", "export", "evaluation")
    assert ours == {f"heimdall_{name}" for name in known}


def test_the_verdict_says_what_the_errors_are(contents_of):
    """It is the one sentence that everybody reads."""
    evaluation = contents_of(90).evaluation
    said = verdict(evaluation)
    near, held = re.search(r"Half of 90 .* within ([\d.]+) km .* hold (\d+) % of", said).groups()
    errors_km = evaluation.error_m / 1000
    assert (errors_km < float(near) - 0.05).sum() <= 45 <= (errors_km < float(near) + 0.05).sum()
    assert float(held) == pytest.approx(100 * evaluation.metrics()["coverage_95"], abs=0.5)
    assert verdict(contents_of(1).evaluation).startswith("The one unseen transmitter is ")
