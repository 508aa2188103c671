"""From `--quantize` to a registered model: judged in metres, and the figures kept."""

import json
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
from heimdall_trainer.cli.benchmark import benchmark
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.errors import UsageError
from heimdall_trainer.pipeline import TrainingPipeline
from mlflow import MlflowClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def eighth(connections, quick, finished):
    """A finished run's checkpoint, delivered once more in 8 bits, for an old runtime."""
    checkpoint = Path(finished.summary.checkpoint)
    config = replace(quick, export_only=True, checkpoint=(checkpoint,), quantize="int8", opset=17)
    return TrainingPipeline(config, connections).run()


def test_what_is_delivered_is_the_file_of_the_precision_that_was_asked_for(eighth):
    """Evaluation, upload and registration must all see the same file as the service will."""
    path = Path(eighth.summary.onnx_path)
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["heimdall.precision"] == "int8"
    assert path.name.endswith(".onnx")
    assert path.with_name(f"{eighth.run_name}.onnx").stat().st_size > path.stat().st_size


def test_what_each_precision_is_worth_is_in_the_run_and_the_sidecar(eighth, connections):
    """Months later someone asks what int8 cost; the answer must not be gone."""
    s3 = connections.need_s3()
    key = eighth.summary.onnx_uri.partition(f"{s3.models_bucket}/")[2]
    answer = s3.client().get_object(s3.models_bucket, key.replace(".onnx", ".json"))
    sidecar = json.loads(answer.read())["metrics"]
    run = MlflowClient(connections.tracking_uri()).get_run(eighth.summary.run_id).data.metrics
    for metrics in (sidecar, run):
        plain, eight = (metrics[f"export/{name}/error_m_median"] for name in ("none", "int8"))
        assert eight == pytest.approx(plain, rel=0.2)
        assert metrics["export/int8/size_bytes"] < metrics["export/none/size_bytes"]
        assert {"export/int8/nll", "export/int8/coverage_68"} <= set(metrics)


def test_a_benchmark_has_every_contender_at_every_batch_with_its_cost(
    finished, quick, connections, tmp_path, capsys
):
    """The table that decides what is served."""
    output = tmp_path / "figures.json"
    benchmark(
        finished.summary.onnx_path,
        seconds=0.0,
        batch_sizes=(1, 2),
        output=output,
        config=replace(quick, checkpoint=(Path(finished.summary.checkpoint),)),
        connections=connections,
    )
    lines = capsys.readouterr().out.splitlines()
    names = ["PyTorch eager", "float32", "fp16", "bf16", "int8", "int4"]
    for name in names:
        assert sum(line.startswith(f"| {name} | ") for line in lines) == 5 - (name == names[0])
    found = json.loads(output.read_text())
    assert [(row["name"], row["n_threads"], row["batch_size"]) for row in found["rows"]] == [
        (name, n_threads, batch) for n_threads in (1, 2) for batch in (1, 2) for name in names
    ]
    _, plain, half, _, eighth, _ = found["contenders"]
    assert half["size_bytes"] < plain["size_bytes"]
    for contender in (half, eighth):
        expected = plain["figures"]["error_m_median"]
        assert contender["figures"]["error_m_median"] == pytest.approx(expected, rel=0.2)


def test_a_benchmark_of_a_registered_model_is_kept_with_it(eighth, quick, connections, capsys):
    """Who reads the sidecar or the run must find what was measured, and nothing else changed."""
    s3 = connections.need_s3()
    client = s3.client()
    key = eighth.summary.onnx_uri.partition(f"{s3.models_bucket}/")[2].replace(".onnx", ".json")
    before = json.loads(client.get_object(s3.models_bucket, key).data)
    address = f"models:/{quick.model_name}/{eighth.summary.model_version}"
    benchmark(address, seconds=0.0, batch_sizes=(1,), config=quick, connections=connections)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| int8 | ") for line in lines) == 3
    after = json.loads(client.get_object(s3.models_bucket, key).data)
    assert {row["name"] for row in after.pop("benchmark")["rows"]} == {"int8"}
    assert after == before
    found = MlflowClient(connections.tracking_uri()).get_run(eighth.summary.run_id)
    stored = s3.client().list_objects(
        "heimdall-mlflow", found.info.artifact_uri.partition("heimdall-mlflow/")[2] + "/benchmark/"
    )
    assert len(list(stored)) == 1


@pytest.mark.parametrize("opset", [13, 27])
def test_an_operator_set_that_is_not_written_is_refused_before_training(opset):
    """Found out at the export, it would cost the hours of training before it."""
    with pytest.raises(UsageError, match=f"--opset is {opset}; it must be from 14 to 26"):
        TrainingConfig(opset=opset)
