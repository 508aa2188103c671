"""What happens when brokers, workers and machines fail; the trainings only pretend."""

import signal

import pytest
from heimdall_trainer.connections import Connections
from mlflow import MlflowClient

pytestmark = pytest.mark.slow


@pytest.fixture
def held(client, place):
    """A worker with a task that holds, and the task."""
    process = place.start_worker()
    return process, place.hold(client)


def test_a_run_whose_training_was_killed_and_called_off_is_ended_in_mlflow(client, place, until):
    """Nobody is left to say so, and MLflow showed it as running for ever."""
    place.start_worker()
    sent = client.send(experiment_name="hold in MLflow")
    until(lambda: sent.status == "PROGRESS" and sent.result["epoch"] == 2, "a run in MLflow")
    run_id = sent.result["run_id"]
    runs = MlflowClient(Connections(state_dir=place.path).tracking_uri())
    assert runs.get_run(run_id).info.status == "RUNNING"
    sent.revoke(terminate=True, signal="SIGKILL")
    until(lambda: runs.get_run(run_id).info.status == "KILLED", "the run to be ended")
    sent.end()
    assert sent.status == "REVOKED"


def test_a_broker_that_restarts_does_not_disturb_a_training(broker, client, held, place, until):
    """The training goes on, happens once, and is reported when the broker is back."""
    _, sent = held
    broker.kill()
    place.release()
    until(lambda: place.trained(sent) == [0, 1, 2], "the training to go on without a broker")
    broker.start()
    assert client.send().end()["first"] == 0
    assert sent.end()["first"] == 0
    assert place.trained(sent) == [0, 1, 2]


def test_a_task_that_the_broker_delivers_again_is_trained_once(broker, client, held, place, until):
    """Two trainings of it would fight for its checkpoints, and one device be lost to others."""
    _, sent = held
    place.start_worker("second")
    broker.kill()
    broker.start()
    until(
        lambda: any(
            "received" in place.log(name).split("Connection to broker lost")[-1]
            for name in ("heimdall", "second")
        ),
        "the task to be delivered again",
    )
    place.release()
    assert sent.end()["first"] == 0
    assert client.send().end()["first"] == 0
    assert place.trained(sent) == [0, 1, 2]


def test_a_killed_workers_task_is_done_by_another_from_its_checkpoint(held, place, until):
    """Machines crash at night; the night must not be lost, nor its training go on unwatched."""
    process, sent = held
    process.kill()
    process.wait()
    until(lambda: not (place.path / "occupied").exists(), "the training to end with its worker")
    place.release()
    place.start_worker("another")
    assert sent.end()["first"] == 1
    assert place.trained(sent) == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_worker_that_is_told_to_end_hands_its_task_back(held, place, number):
    """`systemctl restart` and Kubernetes, and the terminal that it ran in, are no crashes."""
    process, sent = held
    process.send_signal(number)
    assert process.wait(60) == 0
    assert not (place.path / "jobs" / sent.id / "starts.json").exists()
    place.release()
    place.start_worker()
    assert sent.end()["first"] == 1
    assert place.trained(sent) == [0, 1, 2]


def test_a_result_waits_for_its_backend_but_a_worker_that_ends_does_not(
    backend, other_client, place, until
):
    """A night's result must not be lost, and a machine must restart without its database."""
    worker = place.start_worker(backend=backend)
    sent = place.hold(other_client)
    backend.kill()
    place.release()
    until(lambda: (place.path / "jobs" / sent.id / "outcome.json").exists(), "an outcome")
    worker.terminate()
    assert worker.wait(60) == 0
    backend.start()
    place.start_worker(backend=backend)
    assert sent.end()["first"] == 0
    assert place.trained(sent) == [0, 1, 2]


def test_two_workers_share_a_device_one_after_the_other(client, held, place, until):
    """Two trainings on one GPU are slower than one after the other, or out of memory."""
    first = held[1]
    place.start_worker("second")
    second = client.send()
    until(
        lambda: second.status == "PROGRESS" and second.result["stage"] == "waiting for device cpu",
        "the second to wait",
    )
    place.release()
    for sent in (first, second):
        assert sent.end()["first"] == 0  # A pretended training fails where another one runs.


def test_a_second_worker_of_the_same_name_is_refused(place, until):
    """They would share the list of revoked tasks, and could not be told apart."""
    place.start_worker()
    until(lambda: "ready." in place.log(), "the worker to be ready")
    assert place.start_worker().wait(60) != 0
    assert "a worker called 'heimdall' runs on this machine already" in place.log()
