"""A Postgres that is restarted while a network is trained, with the catalogue and MLflow in it."""

import threading
from dataclasses import replace

import psutil
import psycopg
import pytest
from heimdall_data import Catalogue, ObjectStore
from heimdall_data.embedded import EmbeddedStack
from heimdall_data.ingest.ingest import ingest
from heimdall_simulation import simulate_sessions
from heimdall_trainer.connections import Connections
from heimdall_trainer.pipeline import TrainingPipeline
from lightning.pytorch import Callback
from mlflow import MlflowClient


@pytest.fixture
def own_stack(tmp_path):
    """Servers that may be killed without harm to other tests."""
    with EmbeddedStack(tmp_path / "stack") as stack:
        yield stack


class Restart(Callback):
    """Kills Postgres in the first epoch, as a failing machine does, and starts it a while later."""

    def __init__(self, stack):
        self.stack = stack
        self.back = None

    def on_train_batch_start(self, trainer, *_):
        """In the middle of the first epoch."""
        if trainer.global_step == 1 and self.back is None:
            (number,) = (s.pid for s in self.stack.status().servers if s.name == "Postgres")
            postgres = psutil.Process(number)
            killed = [postgres, *postgres.children(recursive=True)]
            for process in killed:
                process.kill()
            psutil.wait_procs(killed)
            self.back = threading.Timer(2.0, self.stack.start)
            self.back.start()

    def on_train_end(self, *_):
        """What follows the training finds the server again."""
        self.back.join()


class Restarted(TrainingPipeline):
    """The pipeline, with a server that does not stay up."""

    def create_trainer(self, tracker=None):
        """With one callback more."""
        trainer = super().create_trainer(tracker)
        trainer.callbacks.append(self.restart)
        return trainer


@pytest.mark.slow
def test_a_training_survives_a_restart_of_postgres(own_stack, quick, tmp_path):
    """Databases are updated at night, when networks are trained; no metric may be lost either."""
    url = own_stack.database_url.rpartition("/")[0] + "/mlflow"
    with psycopg.connect(own_stack.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE mlflow")
    there = replace(
        Connections.to_stack(own_stack), mlflow_tracking_uri=url, state_dir=tmp_path / "state"
    )
    s3 = there.need_s3()
    store = ObjectStore(s3, s3.raw_iq_bucket)
    store.ensure_bucket()
    with Catalogue(there.need_database()) as catalogue:
        made = (session.new_session for session in simulate_sessions(40, seed=3))
        ingest(catalogue, store, made, progress=False)
    pipeline = Restarted(replace(quick, backbone="test_convnext"), there)
    pipeline.restart = Restart(own_stack)
    outcome = pipeline.run()
    assert pipeline.restart.back is not None
    client = MlflowClient(there.tracking_uri())
    assert client.get_run(outcome.summary.run_id).info.status == "FINISHED"
    for name in ("train/loss", "val/loss"):
        history = client.get_metric_history(outcome.summary.run_id, name)
        assert len({entry.step for entry in history}) == quick.epochs
