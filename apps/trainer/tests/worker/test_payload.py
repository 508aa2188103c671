"""A task takes the flags of the command line, and no addresses or secrets."""

import os
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from heimdall_trainer.cli.app import app
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.connections import Connections
from heimdall_trainer.errors import UsageError
from heimdall_trainer.worker.payload import in_folder, refuse_outside, training_config
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

few = limited(max_examples=30)  # Each builds a command line.
names = st.text("NOxyz 01~", min_size=1, max_size=6).filter(lambda name: name.strip())
settings = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.integers(1, 1000),
        "lr": st.floats(1e-9, 1.0),
        "val_split": st.floats(0.01, 0.8),
        "augment": st.booleans(),
        "receivers": st.lists(names, min_size=1, max_size=4, unique=True),
        "devices": st.integers(1, 4),
        "experiment_name": names,
        "since": st.dates().map(str),
        "min_snr_db": st.integers(-20, 60),
    },
)


def typed(kind):
    """The type, and those that it is made of."""
    return {kind}.union(*map(typed, get_args(kind)))


NUMBERS = [
    name
    for name, kind in get_type_hints(TrainingConfig).items()
    if kind in (int, float, float | None)
]
PATHS = [name for name, kind in get_type_hints(TrainingConfig).items() if Path in typed(kind)]


def from_flags(settings):
    """The configuration that `heimdall train` makes of flags."""
    words = ["train"]
    for name, value in settings.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return bound.arguments.get("config", TrainingConfig())


def nested(depth):
    """Lists in lists."""
    whole = innermost = []
    for _ in range(depth):
        innermost.append([])
        innermost = innermost[0]
    return whole


@pytest.mark.parametrize("name", [*NUMBERS, "devices"])
def test_every_number_of_a_task_has_an_upper_bound(name):
    """A task must not start processes until the machine stands still."""
    with pytest.raises(UsageError, match=f"--{name} is .*; it must be "):
        training_config({name: 10**12})


@pytest.mark.slow
@few
@given(settings)
def test_a_task_means_what_the_flags_mean(settings):
    """A training of the queue can be repeated by hand."""
    assert training_config(settings) == from_flags(settings)


@pytest.mark.slow
@few
@given(settings, st.sets(st.sampled_from([each.name for each in fields(TrainingConfig)])))
def test_a_null_is_a_flag_that_is_not_given(settings, unset):
    """JSON of other programs is full of them, and hyphens are as good as underscores."""
    spelt = {name.replace("_", "-"): value for name, value in settings.items()}
    nulls = dict.fromkeys(unset - {*settings, "learning_rate", "validation_split"})
    assert training_config(nulls | spelt) == training_config(settings)


@given(
    st.sampled_from(["broker_url", "result-backend", *(f.name for f in fields(Connections))]), names
)
def test_no_address_and_no_secret_comes_with_a_task(name, value):
    """Whoever can send tasks could read other data, or send the models elsewhere."""
    with pytest.raises(UsageError, match="worker's environment"):
        training_config({name: f"{value}hidden"})


@few
@given(settings, st.text("abcdefgh_", min_size=12), st.integers())
def test_a_name_that_is_no_flag_is_refused(settings, name, value):
    """A misspelt flag would train with a default."""
    with pytest.raises(UsageError, match="no flag"):
        training_config(settings | {name: value})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batchsize": 3}, "'batch_size'"),
        ({"epochs": 2.5}, '"2.5"'),
        ({"epochs": True}, "epochs"),
        ({"epochs": [1, 2]}, "epochs"),
        ({"features": "mell"}, '"mell"'),
        ({"since": "2027-01-01", "until": "2026-01-01"}, "nothing is between"),
        ({"config": "a.yaml"}, "config"),
        ({"CELERY_BROKER_URL": "redis://h"}, "CELERY_BROKER_URL"),
        ({"weights": "https://user:hidden@h/w"}, "holds a secret"),
        ({"receivers": ["x://u:hidden@h"]}, "holds a secret"),
        ({"x://u:hidden@h": 1}, "x://***@h"),
        ({"epochs": {"x://u:hidden@h": 1}}, "'epochs'"),
        ({"no_augment": True}, "'augment'"),
        ({"no-channels-last": False}, "'channels_last'"),
        ({"receivers": [["a"], ["b"]]}, "'receivers'"),
        ({"receivers": nested(5_000)}, "'receivers'"),
        ({"receivers": ["A", None]}, "'receivers'"),
        ({"receivers": ["A"] * 60_000}, "100,000 characters"),
        ({"batch-size": 1, "batch_size": 2}, "twice"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_without_a_secret(settings, said):
    """The line goes to whoever sent the task, and into logs."""
    with pytest.raises(UsageError) as refused:
        training_config(settings)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_an_export_is_export_only():
    """`heimdall.export` says so by its name."""
    assert training_config({"checkpoint": "a.ckpt"}, export=True).export_only
    with pytest.raises(UsageError, match="checkpoint"):
        training_config({}, export=True)


@pytest.mark.parametrize("name", [*PATHS, "weights"])
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../other/../../etc", "link/passwd", "../other/checkpoints/last.ckpt"]
)
def test_a_task_uses_no_path_outside_its_folders(tmp_path, name, path):
    """Whoever may send tasks must not write anywhere, nor learn which files there are."""
    folder = tmp_path / "jobs" / "mine"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to("/etc")
    config = in_folder(training_config({name: path}), folder)
    if path.endswith("last.ckpt") and name in ("checkpoint", "weights"):
        refuse_outside(config, folder, [])  # Another task's checkpoint may be read.
        return
    with pytest.raises(UsageError, match="may not use the path"):
        refuse_outside(config, folder, [])
    refuse_outside(config, folder, [tmp_path, Path("/etc")])


@pytest.mark.parametrize("path", ["a\0b", "a\x1bb", "\udc80"])
def test_a_path_that_no_file_can_have_is_refused_at_once(tmp_path, path):
    """It would end the training after its first epoch."""
    config = in_folder(training_config({"checkpoint_dir": path}), tmp_path)
    with pytest.raises(UsageError, match="must be printable"):
        refuse_outside(config, tmp_path, [])


@pytest.mark.parametrize(
    "settings",
    [
        {"devices": "999999"},
        {"devices": ",".join(map(str, range(900)))},
        {"devices": 4, "num_workers": 4 * (os.cpu_count() or 1)},
    ],
)
def test_devices_and_their_loaders_have_one_bound(settings):
    """Each training process starts loaders of its own."""
    with pytest.raises(UsageError, match=r"processes for each core|auto, a count, or"):
        training_config(settings)


@pytest.mark.parametrize(
    "settings", [{}, {"weights": "hub"}, {"checkpoint_dir": "mine"}, {"checkpoint": "mine/a.ckpt"}]
)
def test_paths_of_a_task_are_in_its_folder(tmp_path, settings):
    """A worker's own working directory is nothing that a sender knows."""
    config = in_folder(training_config(settings), tmp_path)
    refuse_outside(config, tmp_path, [])
    assert config.weights == settings.get("weights")
    given = [path for path in (config.checkpoint_dir, *config.checkpoint) if path]
    assert all(path.is_relative_to(tmp_path / "mine") for path in given)
