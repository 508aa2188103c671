"""Any model on any part of the split, by whatever name, and two of them side by side."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heimdall_evaluation.errors import EvaluationError
from heimdall_evaluation.report.embedded import read_report
from heimdall_models.checkpoint import RUN_RECORD
from heimdall_models.errors import TrainingError
from heimdall_models.trained import RunRecord, Trained
from heimdall_models.training.resume import RunKeeper, exported_network
from heimdall_trainer.cli.app import main
from heimdall_trainer.cli.compare import compare
from heimdall_trainer.data import load_training_data
from heimdall_trainer.delivery import sessions_of_part
from heimdall_trainer.mlflow_run import sessions_trained_on
from heimdall_trainer.models import evaluate_file, file_name, opened_model
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

pytestmark = pytest.mark.slow


def names_of(finished):
    """Every way to name the model of a run."""
    summary = finished.summary
    return {
        "file": summary.onnx_path,
        "object": summary.onnx_uri,
        "version": f"models:/heimdall-localization-onnx/{summary.model_version}",
    }


@pytest.mark.parametrize("way", ["file", "object", "version"])
def test_every_name_of_a_model_leads_to_the_same_file(way, connections, quick, finished):
    """Who deploys has an address, who trains a path, and both ask what it is worth."""
    name = names_of(finished)[way]
    with opened_model(name, quick, connections, lambda asked: finished.data) as opened:
        assert opened.file.path.read_bytes() == Path(finished.summary.onnx_path).read_bytes()
        largest_m = finished.summary.metrics["val/sigma_factor"] * opened.file.region.scale_m
        assert opened.file.summary.sigma_bounds_m == pytest.approx([0.01 * largest_m, largest_m])
        assert opened.trained_on == {session.id for session in finished.data.train.sessions}


def test_a_checkpoint_is_evaluated_on_the_part_that_is_asked_for(
    connections, quick, finished, tmp_path
):
    """The figures of a part must be those of its sessions, and say so by their names."""
    checkpoint = tmp_path / "best.ckpt"
    shutil.copyfile(finished.summary.checkpoint, checkpoint)
    found, page = evaluate_file(checkpoint, quick, connections, part="validation")
    wanted = [session.id for session in finished.data.validation.sessions]
    assert list(found.evaluation.session_ids) == wanted
    assert found.metrics["val/error_m_median"] == pytest.approx(
        finished.summary.metrics["val/error_m_median"], rel=1e-3
    )
    assert page == tmp_path / "best.validation.html"
    assert len(found.spectrograms) == min(10, len(wanted))
    told = read_report(page)
    assert told.evaluation.trained_on == (False,) * len(wanted)
    assert "validation sessions" in page.read_text(encoding="utf-8")


def test_parts_are_those_of_the_split_and_all_is_their_union(finished):
    """Nothing is evaluated twice or forgotten; training features come without augmentation."""
    data = finished.data
    ids = {
        part: [s.id for s in sessions_of_part(data, part).sessions]
        for part in ("train", "validation", "test", "all")
    }
    assert ids["all"] == ids["train"] + ids["validation"] + ids["test"]
    plain = sessions_of_part(data, "train")
    every = sessions_of_part(data, "all")
    np.testing.assert_array_equal(plain[0]["features"], every[0]["features"])
    assert not np.array_equal(plain[0]["features"], data.train[0]["features"])


def test_the_runs_own_report_can_be_compared_with_another_model(
    connections, quick, finished, tmp_path, capsys
):
    """A model beside itself: one read from its report, one asked again."""
    page, summary = tmp_path / "page.html", tmp_path / "told.json"
    models = (str(finished.report), finished.summary.onnx_path)
    config = replace(quick, summary=summary)
    compare(*models, report=page, config=config, connections=connections)
    told = json.loads(summary.read_text())
    assert told["better"] in {"no difference", "unknown"}
    assert told["error_ratio"]["p"] == 1
    assert told["a"]["trained_on"] == told["b"]["trained_on"] == []
    said = capsys.readouterr().out
    assert "A was trained on none of these sessions." in said
    assert re.search(r"median error +│ +\d+(\.\d+)? km │ +\d+(\.\d+)? km", said)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_two_reports_are_compared_without_any_server(finished, tmp_path, monkeypatch, capsys):
    """They are mailed around; who gets them has no access to the recordings."""
    for name in ("HEIMDALL_DATABASE_URL", "HEIMDALL_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("one.html", "two.html"):
        shutil.copyfile(finished.report, name)
    with pytest.raises(SystemExit) as ended:
        main(["compare", "one.html", "two.html", "--summary", "told.json"])
    assert ended.value.code == 0, capsys.readouterr().err
    told = json.loads(Path("told.json").read_text())
    assert told["report"] == "compare-one-two.html"
    assert Path("compare-one-two.html").is_file()
    assert told["a"]["metrics"] == told["b"]["metrics"]
    assert told["a"]["metrics"]["error_m_median"] == pytest.approx(
        finished.summary.metrics["test/error_m_median"]
    )
    assert told["error_ratio"]["p"] == 1
    assert told["a"]["trained_on"] == []
    assert len(told["session_ids"]) == told["n_sessions"] == len(finished.data.test)


def test_a_run_that_nobody_recorded_leaves_open_what_it_was_trained_on(connections, capsys):
    """A guess would call sessions new that the model knows by heart."""
    assert sessions_trained_on("", connections) is None
    assert sessions_trained_on("0" * 32, connections) is None
    assert "sessions that the model was trained on are not known" in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["[" * 10**5, "no JSON", "[]", '{"sessions": [[]]}'])
def test_a_run_that_names_its_sessions_in_another_form_leaves_them_open(
    connections, capsys, profile
):
    """Anyone may write to the tracking server, and the evaluation is still worth having."""
    client = MlflowClient(connections.tracking_uri())
    run_id = client.create_run("0").info.run_id
    tag = InputTag("mlflow.data.context", "training")
    told = Dataset("d", "1", "local", "{}", profile=profile)
    client.log_inputs(run_id, [DatasetInput(told, [tag])])
    assert sessions_trained_on(run_id, connections) is None
    assert f"run {run_id} names them in another form" in capsys.readouterr().err


def test_a_model_in_production_is_watched_on_sessions_that_it_has_not_seen(
    connections, finished, heimdall_here
):
    """The monitor of docs/judging.md: what training used would hide a model that got worse."""
    words = ("--report", "new.html", "--summary", "new.json", "--max_error_m_median", "1")
    model = names_of(finished)["version"]

    def watch(since, *more):
        done = heimdall_here(
            "evaluate", model, "--since", since, *words, *more, connections=connections
        )
        return done, json.loads(Path("new.json").read_text())

    done, told = watch("2000-01-01", "--min_coverage_95", "0.001")
    data = finished.data
    n_used = len(data.train) + len(data.validation)
    assert done.returncode == 3, done.stderr
    assert "heimdall: not met: --max_error_m_median 1; the lines above" in done.stderr
    said = f"{len(data.test)} new sessions since 2000-01-01T00:00:00+00:00; besides {n_used} that"
    assert said in done.stdout
    assert "The model was trained on none of these sessions." in done.stdout
    assert {check["threshold"]: check["verdict"] for check in told["thresholds"]} == {
        "min_coverage_95": "met",
        "max_error_m_median": "not met",
    }
    assert (told["split"], told["n_left_out"], told["n_trained_on"]) == ("new", n_used, 0)
    test = finished.summary.metrics["test/error_m_median"]
    assert told["metrics"]["new/error_m_median"] == pytest.approx(test, rel=1e-6)
    page = read_report(Path("new.html"))
    assert set(page.evaluation.session_ids) == {session.id for session in data.test.sessions}
    assert "max_error_m_median 1" in Path("new.html").read_text(encoding="utf-8")

    done, told = watch("2190-01-01T00:00+01:00")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 new sessions since 2189-12-31T23:00:00+00:00; besides 0 that")
    assert "no sessions --max_error_m_median 1: nothing to judge it by" in done.stdout
    assert (told["n_sessions"], told["report"]) == (0, None)
    assert [check["verdict"] for check in told["thresholds"]] == ["no sessions"]

    Path("run.yaml").write_text("only:\n  since: 2190-01-01\n")
    done = heimdall_here("evaluate", model, "--config", "run.yaml", connections=connections)
    assert done.returncode == 1  # In a file, it is the training's choice of sessions.
    assert "no approved and completed session with {'since': datetime(2190" in (
        done.stderr.replace("datetime.datetime", "datetime")
    )


def test_a_checkpoint_is_not_watched(connections, heimdall_here):
    """It does not say what it was trained on."""
    done = heimdall_here("evaluate", "best.ckpt", "--since", "7d", connections=connections)
    assert done.returncode == 2
    assert "best.ckpt is a checkpoint" in done.stderr


def test_files_about_a_stored_model_have_names_that_a_disk_takes():
    """An address has slashes and an at sign."""
    assert file_name("s3://heimdall-models/models/localization/v2.onnx") == "v2"
    assert file_name("models:/heimdall@production") == "heimdall-production"
    assert file_name("models:/heimdall/7") == "heimdall-7"


def test_a_model_that_is_not_there_is_named(connections, quick, tmp_path):
    """The commonest mistake."""
    with pytest.raises(EvaluationError, match=r"missing\.onnx: No such"):
        evaluate_file(tmp_path / "missing.onnx", quick, connections)


@pytest.fixture
def checkpoint(finished):
    """Of a finished training on Torino, Genova and Milano."""
    return Path(finished.summary.checkpoint)


@pytest.mark.parametrize(
    "others",
    [("Genova", "Torino", "Milano-Baggio"), ("Torino", "Genova", "Coazze")],
    ids=["in another order", "one of them another"],
)
def test_a_checkpoint_is_not_exported_for_other_receivers(checkpoint, others, quick, connections):
    """It would go into production as it was, and be kilometres off without a word."""
    data = load_training_data(replace(quick, receivers=others), connections)
    with pytest.raises(TrainingError, match="give --receivers 'Torino' 'Genova' 'Milano-Baggio'"):
        exported_network(Trained.open(checkpoint), data)


def test_a_checkpoint_is_evaluated_on_its_own_receivers(checkpoint, quick, connections):
    """Those that are most often there may be three others."""
    with opened_model(str(checkpoint), replace(quick, receivers=()), connections) as opened:
        assert tuple(station.name for station in opened.data.receivers) == quick.receivers


def test_training_does_not_go_on_with_other_receivers():
    """Weights of one place would be fitted to another."""
    keeper = RunKeeper(
        RunRecord(run_id=None, seed=1, batch_size=2, sessions="", receivers=("A", "B"))
    )
    with pytest.raises(TrainingError, match="listens to B, A, and the data has A, B"):
        keeper.on_load_checkpoint(None, None, {RUN_RECORD: {"receivers": ("B", "A")}})
