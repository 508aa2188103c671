"""What a task does: one worker and a real broker; the trainings only pretend."""

import fcntl
import json
import time
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_task_reports_its_progress_and_its_summary_is_the_result(client, standing):
    """A web page shows both, and needs nothing of ours installed."""
    sent = standing.hold(client)
    said = sent.result
    standing.release()
    assert said.items() >= {"stage": "training", "epoch": 1, "epochs": 3}.items()
    assert (said["run_id"], said["metrics"]) == ("a-run", {"val/loss": 2.5})
    assert sent.end() == {"run_id": "a-run", "epochs": 3, "first": 0}
    client.send(task_id=sent.id)  # Brokers deliver at least once.
    assert client.send().end()
    assert standing.trained(sent) == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epoch": 3}, "no flag is called 'epoch'; did you mean 'epochs'?"),
        ({"epochs": 0}, "--epochs is 0; it must be from 1 to 100,000"),
        ({"database_url": "postgresql://u:hidden@h/d"}, "come from the worker's environment"),
        ({"task_id": "../../elsewhere"}, "cannot name a folder"),
        ({"args": [{"epochs": 2}]}, "keyword arguments"),
        ({"weights": "/etc/shadow"}, "may not use the path '/etc/shadow'"),
    ],
)
def test_a_bad_task_fails_at_once_and_is_not_tried_again(client, standing, settings, said):
    """A task that cannot be must not come back for ever; nor may the error repeat a secret."""
    sent = client.send(**settings)
    error = sent.end()
    assert (type(error).__name__, sent.status) == ("JobRefused", "FAILURE")
    assert said in str(error)
    assert "hidden" not in str(error) + sent.traceback
    assert client.send().end()["first"] == 0
    assert standing.log().count(f"Task heimdall.train[{sent.id}] received") == 1
    assert not (standing.path / "jobs" / sent.id).exists()


def test_an_export_needs_a_checkpoint(client, standing):
    """`heimdall.export` is `heimdall train --export_only`, with what that refuses."""
    assert "--checkpoint is None; it must be given" in str(client.send("heimdall.export").end())
    sent = client.send("heimdall.export", checkpoint="a.ckpt")
    assert sent.end()["export_only"] is True


def test_a_failed_task_that_is_sent_again_goes_on_from_its_checkpoint(client, standing, until):
    """The error is one line that an operator can act on; what was trained is not lost."""
    first = client.send(experiment_name="fail")
    error = first.end()
    assert type(error).__name__ == "JobFailed"
    assert str(error).startswith("the catalogue is empty (checkpoints: ")
    again = client.send(task_id=first.id)
    until(lambda: again.status == "SUCCESS", "the task to be done")
    assert again.result["first"] == 1


def test_a_task_that_is_revoked_while_it_waits_never_starts(client, standing, until):
    """It was a mistake, and nobody wants to wait for it."""
    first, waiting = standing.hold(client), client.send()
    waiting.revoke()
    until(lambda: waiting.status == "REVOKED", "the waiting task to be revoked")
    standing.release()
    assert first.end()["first"] == 0
    assert client.send().end()["first"] == 0
    assert standing.trained(waiting) == []


@pytest.mark.parametrize("how", [{}, {"terminate": True}, {"terminate": True, "signal": "SIGKILL"}])
def test_a_task_that_is_revoked_while_it_trains_stops(client, standing, how):
    """The device is free for the next one, the checkpoint stays, and nothing else does."""
    sent = standing.hold(client)
    folder = standing.path / "jobs" / sent.id
    scratch = Path((standing.path / "scratch.txt").read_text())
    sent.revoke(**how)
    sent.end()
    if "signal" in how:
        (standing.path / "occupied").unlink()
    assert client.send().end()["first"] == 0
    assert sent.status == "REVOKED"
    kept = {"epoch=0.ckpt"} if "signal" in how else {"epoch=0.ckpt", "step.ckpt"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == kept
    assert not scratch.exists()


def test_a_training_that_is_killed_every_time_is_given_up(client, standing):
    """Or it would keep the device for ever, and everybody else waiting."""
    sent = client.send(experiment_name="crash")
    assert "killed 3 times" in str(sent.end())
    assert standing.trained(sent) == [0]
    assert client.send().end()["first"] == 0


def test_a_task_that_another_machine_trains_is_left_to_it(client, standing, until):
    """A broker that lost a connection gives the task away, while it is still trained there."""
    task_id, alive = str(uuid.uuid4()), {"host": "another", "alive_at": time.time() + 3600}
    client.app.backend.store_result(task_id, alive, "PROGRESS")
    sent = client.send(task_id=task_id)
    until(lambda: standing.log().count(f"[{task_id}] ignored") >= 2, "the task to come twice")
    assert standing.trained(sent) == []
    client.app.backend.store_result(task_id, alive | {"alive_at": 0}, "PROGRESS")
    assert sent.end()["first"] == 0
    assert standing.trained(sent) == [0, 1, 2]


def test_a_task_that_another_process_trains_comes_again_later(client, standing, until):
    """Two trainings of one task would overwrite each other's checkpoints."""
    folder = standing.path / "jobs" / str(uuid.uuid4())
    folder.mkdir(parents=True)
    with (folder / "running.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sent = client.send(task_id=folder.name)
        until(lambda: standing.log().count(f"[{sent.id}] received") >= 2, "the task to come twice")
        assert standing.trained(sent) == []
    assert sent.end()["first"] == 0


def test_a_worker_renews_the_lease_of_what_it_trains(broker, client, standing, until):
    """Or Redis would give every long training to another worker, too."""

    def leases():
        return [when for _, when in broker.database.zrange("unacked_index", 0, -1, withscores=True)]

    sent = standing.hold(client)
    first = leases()
    until(lambda: min(leases()) > max(first), "a renewal")
    standing.release()
    assert sent.end()["first"] == 0


def test_messages_are_json_alone(client, standing):
    """Whoever can write to a broker could run anything on workers that read pickles."""
    sent = client.send(serializer="pickle")
    assert client.send().end()["first"] == 0
    assert standing.trained(sent) == []
    assert "Refusing to deserialize" in standing.log()


def test_secrets_are_in_no_log_and_nowhere_in_the_broker(client, broker, standing):
    """Logs are kept for years, and results shown to everybody."""
    sent = standing.hold(client)
    written = b"".join(path.read_bytes() for path in broker.folder.rglob("*.incr.aof"))
    seen = standing.log() + written.decode(errors="replace")
    standing.release()
    assert "PROGRESS" in seen
    assert json.dumps(sent.end())
    assert "broker-password" not in seen
    assert "s3-secret" not in seen
