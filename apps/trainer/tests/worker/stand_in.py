"""A worker whose trainings only pretend: everything of the service but Lightning.

    python stand_in.py serve BROKER RESULTS STATE NAME      the worker
    python stand_in.py FOLDER                               the training process of a task

A pretended epoch writes a checkpoint. `experiment_name` says what happens before the second epoch,
or before the first of a resumed training: `hold` waits until the state directory has a file
`release`, `hold in MLflow` does so with a run, `crash` kills the process, `fail` raises an error.
"""

import os
import signal
import sys
import time
from pathlib import Path

from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import TrainerError
from heimdall_trainer.events import tell
from heimdall_trainer.worker.training_process import run_job

stopped = []  # Where a checkpoint goes at SIGTERM.


def serve(broker_url, result_backend, state_directory, name):
    """Run a worker until it is stopped."""
    from heimdall_trainer.worker.service import TrainingService

    TrainingService(
        broker_url=broker_url,
        result_backend=result_backend,
        state_directory=Path(state_directory),
        command=(sys.executable, __file__),
        environment=os.environ,
        lease_s=2.0,
    ).serve(name)


def train(config, connections):
    """Pretend, alone on the device."""
    state = connections.state_directory()
    occupied = state / "occupied"
    occupied.open("x").close()  # Fails where somebody else is training.
    (state / "scratch.txt").write_text(os.environ["TMPDIR"])
    try:
        epochs(config, state)
    finally:
        occupied.unlink()


def epochs(config, state):
    """What `train` does, with a line for every epoch in `trained.txt`."""
    stopped.append(config.checkpoint_dir)
    first = len(list(config.checkpoint_dir.glob("epoch*.ckpt")))
    tell("stage", stage="training", state="begun")
    tell("run", run_id="a-run")
    for epoch in range(first, config.epochs):
        done = {"epoch": epoch, "epochs": config.epochs, "seconds_left": 1.0}
        tell("epoch", **done, **{"val/loss": 2.5, "val/nll": float("nan")})
        if epoch == max(first, 1):
            happens(config.experiment_name, state)
        (config.checkpoint_dir / f"epoch={epoch}.ckpt").touch()
        with (state / "trained.txt").open("a") as file:
            file.write(f"{config.checkpoint_dir.parent.name} {epoch}\n")
    more = {"export_only": True} if config.export_only else {}
    tell("result", run_id="a-run", epochs=config.epochs, first=first, **more)


def happens(what, state):
    """Hold, crash or fail."""
    if what == "crash":
        (state / "occupied").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hold in MLflow":
        from heimdall_export import MLflowTracker

        there = Connections(state_dir=state)
        run = MLflowTracker(
            there.tracking_uri(), artifact_root=there.artifact_root(), outbox=there.outbox()
        )
        tell("run", run_id=run.run_id)
        tell("epoch", epoch=2, epochs=3, seconds_left=1.0)
    if what == "fail":
        raise TrainerError("the catalogue is empty")
    while what.startswith("hold") and not (state / "release").exists():
        time.sleep(0.02)


def stop(*_):
    """Write a checkpoint, which takes a while; whoever asks twice does not want to wait."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    time.sleep(0.7)
    for folder in stopped:
        (folder / "step.ckpt").touch()
    sys.exit(143)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        signal.signal(signal.SIGTERM, stop)
        folder = Path(sys.argv[1])
        run_job(folder, Connections(state_dir=folder.parent.parent), train)
