"""The service as it is: `heimdall worker` trains with Lightning, for a real broker."""

import sys
from pathlib import Path

import pytest
from heimdall_trainer.connections import Connections
from mlflow import MlflowClient

ATTO = {
    "batch_size": 8,
    "backbone": "convnext_atto",
    "receivers": ["Torino", "Genova", "Milano-Baggio"],
    "validation_split": 0.25,
    "test_split": 0.25,
    "seed": 7,
}


@pytest.fixture
def start_worker(place, broker, stack, connections):
    """Start `heimdall worker` on the stack of simulated sessions."""
    variables = Connections.to_stack(stack).environment(defaults=False) | {
        "HEIMDALL_STATE_DIR": str(connections.state_directory()),
        "CELERY_BROKER_URL": broker.url,
        "OMP_NUM_THREADS": "1",
    }
    heimdall = Path(sys.executable).with_name("heimdall")
    command = (heimdall, "worker", "--lease", "2")
    return lambda: place.start_worker(command=command, environment=variables)


def in_epoch(sent, number):
    """Whether a task has done this many epochs."""
    assert sent.status in ("PENDING", "PROGRESS"), sent.result
    return sent.status == "PROGRESS" and sent.result["epoch"] >= number


@pytest.mark.slow
def test_a_task_survives_its_worker_and_its_broker(
    client, broker, connections, start_worker, until
):
    """All of it together: killed in the middle, gone on with, and reported as one run."""
    worker = start_worker()
    sent = client.send(epochs=4, patience=4, **ATTO)
    until(lambda: in_epoch(sent, 1), "the first epoch")
    told = sent.result
    worker.kill()
    start_worker()
    until(lambda: in_epoch(sent, 2), "the second epoch")
    broker.kill()
    broker.start()
    until(lambda: sent.status == "SUCCESS", "the result")
    summary = sent.result
    folder = connections.state_directory() / "jobs" / sent.id
    assert Path(summary["checkpoint"]).parent == folder / "checkpoints"
    assert told["epochs"] == 4
    assert "val/error_m_median" in summary["metrics"]
    assert summary["onnx_uri"].startswith("s3://heimdall-models/")
    assert summary["run_id"] == told["run_id"]
    run = MlflowClient(connections.tracking_uri()).get_run(summary["run_id"])
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_revoked_training_keeps_its_checkpoint_and_says_so_in_mlflow(
    client, connections, start_worker, until
):
    """Who calls it off may want to go on later, and MLflow must not show it as running for ever."""
    start_worker()
    sent = client.send(epochs=100, patience=100, **ATTO)
    until(lambda: in_epoch(sent, 1), "the first epoch")
    run_id = sent.result["run_id"]
    sent.revoke()
    sent.end()
    assert sent.status == "REVOKED"
    assert any((connections.state_directory() / "jobs" / sent.id / "checkpoints").glob("*.ckpt"))
    assert MlflowClient(connections.tracking_uri()).get_run(run_id).info.status == "KILLED"
