"""One training for each device: which devices a training takes, and who waits for whom."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.worker.training_process import claimed_devices, device_locks, visible_gpus

GPUS = ("GPU-b", "GPU-a", "GPU-c")
LISTING = "#!/bin/sh\nprintf 'GPU-b\\nGPU-a\\nGPU-c\\n'\n"
HOLDER = """
import sys
from pathlib import Path
from heimdall_trainer.worker.training_process import device_locks
with device_locks(Path(sys.argv[1]), ["cpu"], print):
    print("held", flush=True)
    sys.stdin.read()
"""


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


def test_a_device_is_free_when_its_holder_is_killed(tmp_path):
    """A lock that outlives a crash would stop all training until somebody notices."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"

    def kill(device):
        assert device == "cpu"
        holder.kill()
        holder.communicate()

    waited = []
    with device_locks(tmp_path, ["cpu"], lambda device: (waited.append(device), kill(device))):
        assert waited == ["cpu"]
