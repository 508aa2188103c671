"""What a task may say is what the command line takes, and nothing about places and secrets."""

import contextlib

import pytest
from heimdall_trainer.cli.app import app
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.errors import UsageError
from heimdall_trainer.worker.payload import training_config


def from_flags(*words):
    """The configuration that `heimdall train` makes of flags."""
    _, bound, _ = app.parse_args(["train", *words], exit_on_error=False, print_error=False)
    return bound.arguments["config"]


def nested(depth):
    """Lists in lists."""
    whole = innermost = []
    for _ in range(depth):
        innermost.append([])
        innermost = innermost[0]
    return whole


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"epochs": 3, "lr": 1e-4}, "--epochs 3 --lr 1e-4"),
        ({"val-split": 0.3, "augment": False}, "--val-split 0.3 --no-augment"),
        ({"receivers": ["NO", "1"], "devices": 1}, "--receivers NO 1 --devices 1"),
        ({"since": "2026-01-01", "min_snr_db": 3}, "--since 2026-01-01 --min_snr_db 3"),
    ],
)
def test_a_mapping_means_what_the_flags_mean(settings, flags):
    """Two ways to say one thing, or a training cannot be repeated by hand."""
    assert training_config(settings) == from_flags(*flags.split())


def test_a_null_is_a_flag_that_is_not_given():
    """JSON of other programs is full of them."""
    assert training_config({"epochs": None, "weights": None}) == TrainingConfig()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batchsize": 3}, "Did you mean --batch-size?"),
        ({"epochs": 2.5}, '"2.5"'),
        ({"epochs": True}, "epochs"),
        ({"epochs": [1, 2]}, "epochs"),
        ({"features": "mell"}, '"mell"'),
        ({"epochs": {"a": 1}}, "epochs"),
        ({"since": "2027-01-01", "until": "2026-01-01"}, "nothing is between"),
        ({"resume_training": True}, "resume_training needs checkpoint"),
        ({"config": "a.yaml"}, "config"),
        ({"s3-secret-key": "hidden"}, "environment"),
        ({"CELERY_BROKER_URL": "redis://h"}, "CELERY_BROKER_URL"),
        ({"broker_url": "redis://h"}, "environment"),
        ({"weights": "https://user:hidden@h/w"}, "holds a password"),
        ({"receivers": ["x://u:hidden@h"]}, "holds a password"),
        ({"x://u:hidden@h": 1}, "holds a password"),
        ({"epochs": {"x://u:hidden@h": 1}}, "'epochs'"),
        ({"no_augment": True}, "write 'augment': false"),
        ({"no-channels-last": False}, "write 'channels_last': false"),
        ({"receivers": [["a"], ["b"]]}, "'receivers'"),
        ({"config": {"epochs": 3}}, "'config'"),
        ({"receivers": nested(5_000)}, "'receivers'"),
        ({"receivers": ["a station"] * 20_000}, "100,000"),
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
    with contextlib.suppress(UsageError):
        training_config({}, export=True)
        pytest.fail("nothing to export")
