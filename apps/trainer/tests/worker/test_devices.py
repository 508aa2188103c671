"""One training for each device: which devices a training takes, and who waits for whom."""

import os
import subprocess
from dataclasses import replace

import pytest
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.worker.devices import claimed_devices, lock_file, locked, visible_gpus

GPUS = ("GPU-b", "GPU-a", "GPU-c")
LISTING = "#!/bin/sh\nprintf 'GPU-b\\nGPU-a\\nGPU-c\\n'\n"


@pytest.mark.parametrize(
    ("accelerator", "devices", "taken"),
    [
        ("auto", "auto", ("GPU-a", "GPU-b", "GPU-c")),
        ("gpu", "1", ("GPU-b",)),
        ("gpu", "2", ("GPU-a", "GPU-b")),
        ("cuda", "1,2", ("GPU-a", "GPU-c")),
        ("gpu", "-1", ("GPU-a", "GPU-b", "GPU-c")),
        ("cpu", "2", ("cpu",)),
    ],
)
def test_a_training_claims_what_lightning_would_take(accelerator, devices, taken):
    """A count is of the first ones; the order is one for all, so that nobody waits in a circle."""
    config = replace(TrainingConfig(), accelerator=accelerator, devices=devices)
    assert claimed_devices(config, GPUS) == taken


def test_without_a_gpu_the_processor_is_the_device():
    """`auto` trains there."""
    assert claimed_devices(TrainingConfig(), ()) == ("cpu",)


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [(None, GPUS), ("1", ("GPU-a",)), ("2,0", ("GPU-c", "GPU-b")), ("GPU-a", ("GPU-a",)), ("", ())],
)
def test_a_gpu_is_one_device_however_it_is_called(tmp_path, monkeypatch, chosen, seen):
    """One worker says 1 and another its serial name; both mean one piece of hardware."""
    program = tmp_path / "nvidia-smi"
    program.write_text(LISTING)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(environment) == seen


def test_a_device_is_free_when_the_last_holder_is_killed(tmp_path):
    """The training keeps the device that a killed worker locked, and no crash keeps it for ever."""
    path = lock_file(tmp_path, "cpu")
    with locked(path) as lock:
        assert locked(path) is None
        training = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    assert locked(path) is None
    training.kill()
    training.wait()
    locked(path).close()
