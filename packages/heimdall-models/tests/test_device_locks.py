"""One training for each device: which devices a training takes, and who waits for whom."""

import os
import subprocess
from dataclasses import replace

import pytest
from heimdall_models.training.device_locks import (
    claimed_devices,
    lock_file,
    locked,
    visible_gpus,
)
from heimdall_models.training.options import TrainingOptions
from hypothesis import given
from hypothesis import strategies as st

GPUS = ("GPU-b", "GPU-a", "GPU-c")
LISTING = "#!/bin/sh\nprintf 'GPU-b\\nGPU-a\\nGPU-c\\n'\n"
gpus = st.lists(st.uuids().map("GPU-{}".format), min_size=1, max_size=6, unique=True)


@given(gpus, st.integers(1, 8), st.sampled_from(["auto", "gpu", "cuda"]))
def test_a_count_claims_the_first_devices_in_one_order_for_all(gpus, count, accelerator):
    """Lightning takes the first ones; the common order keeps two trainings from a deadlock."""
    config = replace(TrainingOptions(), accelerator=accelerator, devices=str(count))
    assert claimed_devices(config, gpus) == tuple(sorted(gpus[:count]))


@given(gpus, st.data())
def test_a_list_claims_its_devices_and_auto_claims_all(gpus, data):
    """A training that locks too few devices shares one with another training."""
    numbers = st.lists(st.integers(0, len(gpus) - 1), min_size=2, unique=True)
    chosen = data.draw(numbers if len(gpus) > 1 else st.just([0]))
    listed = replace(TrainingOptions(), devices=",".join(map(str, chosen)) + ",")
    assert claimed_devices(listed, gpus) == tuple(sorted(gpus[number] for number in chosen))
    for devices in ("auto", "-1"):
        every = replace(TrainingOptions(), devices=devices)
        assert claimed_devices(every, gpus) == tuple(sorted(gpus))


@given(gpus)
def test_the_processor_is_one_device(gpus):
    """`auto` trains there without a GPU."""
    assert claimed_devices(TrainingOptions(), ()) == ("cpu",)
    assert claimed_devices(replace(TrainingOptions(), accelerator="cpu"), gpus) == ("cpu",)


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [(None, GPUS), ("1", ("GPU-a",)), ("2,0", ("GPU-c", "GPU-b")), ("GPU-a", ("GPU-a",)), ("", ())],
)
def test_a_gpu_is_one_device_however_it_is_called(tmp_path, monkeypatch, chosen, seen):
    """One worker says 1 and another its UUID; both mean one piece of hardware."""
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
