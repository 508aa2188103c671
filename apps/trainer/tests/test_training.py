"""Training as the trainer sets it up: what it averages, what it repeats, and how it stops."""

import re
from dataclasses import replace

import pytest
import torch
from heimdall_models import AveragedWeights, LocalizationNet, ModelError
from heimdall_models.errors import OptionError, TrainingError
from heimdall_models.trained import Trained
from heimdall_models.training.checkpoint_files import newest_checkpoint
from heimdall_models.training.devices import placement
from heimdall_models.training.fit import fit, make_trainer
from heimdall_trainer.config import TrainingConfig
from heimdall_trainer.errors import UsageError, is_expected
from heimdall_trainer.pipeline import TrainingPipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(connections, quick):
    """The sessions of the test catalogue, divided and with their features."""
    return TrainingPipeline(quick, connections).load_data()


@pytest.fixture
def train(connections, quick, data, tmp_path):
    """Train with some settings changed; the network and what came of it."""

    def run(folder="run", **settings):
        config = replace(quick, backbone="test_convnext", **settings)
        config = replace(config, checkpoint_dir=tmp_path / folder)
        pipeline = TrainingPipeline(config, connections)
        module = pipeline.create_lightning_module(data)
        begun = config.checkpoint[0] if config.checkpoint else None
        return module, fit(pipeline.create_trainer(), module, data, config, begun)

    return run


def test_the_same_seed_gives_the_same_weights(train):
    """With averaging, augmentation and workers: a result that cannot be repeated proves little."""
    first, _ = train("first", num_workers=2)
    again, _ = train("again", num_workers=2)
    alone, _ = train("alone", num_workers=0)
    other, _ = train("other", num_workers=0, seed=8)
    weights = first.state_dict()
    for name, value in weights.items():
        assert torch.equal(again.state_dict()[name], value), name
        assert torch.equal(alone.state_dict()[name], value), name
    assert any(not torch.equal(other.state_dict()[name], value) for name, value in weights.items())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(
    train, tmp_path, num_workers
):
    """Average, optimiser, schedule, order, augmentation and dropout, bit for bit."""
    straight, _ = train("straight", epochs=4, num_workers=num_workers)
    half = min((tmp_path / "straight").glob("epoch=*.ckpt"))  # The best three of four are kept.
    resumed, _ = train("resumed", epochs=4, checkpoint=(half,), num_workers=num_workers)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_what_is_delivered_is_the_average(train):
    """The checkpoint has both; the weights of the last step are only there to go on from."""
    _, trained = train()
    kept = torch.load(trained.checkpoint, weights_only=True)
    loaded = Trained.open(trained.checkpoint).single.module.state_dict()
    name = "net.heads.position.weight"
    assert torch.equal(loaded[name], kept["state_dict"][name])
    assert not torch.equal(loaded[name], kept["current_model_state"][name])


def test_averaging_and_clipping_can_be_switched_off(quick, tmp_path):
    """A zero must not be an average that forgets all, or a gradient clipped to nothing."""
    plain = make_trainer(replace(quick, ema_decay=0.0, gradient_clip=0.0), tmp_path, None)
    assert plain.gradient_clip_val is None
    assert not any(isinstance(callback, AveragedWeights) for callback in plain.callbacks)
    usual = make_trainer(quick, tmp_path, None)
    assert usual.gradient_clip_val == 1.0
    assert any(isinstance(callback, AveragedWeights) for callback in usual.callbacks)


def test_a_backbone_that_thaws_trains_on_several_processes(quick, tmp_path):
    """The usual strategy waits for gradients that frozen weights never have."""
    thawing = replace(quick, unfreeze_epoch=1, accelerator="cpu")
    assert make_trainer(thawing, tmp_path, None).strategy.__class__.__name__ != "DDPStrategy"
    several = make_trainer(replace(thawing, devices="2"), tmp_path, None)
    assert several.strategy._ddp_kwargs["find_unused_parameters"]


def test_divergence_ends_the_run_in_one_line_with_sessions_and_a_checkpoint(train, data, tmp_path):
    """A night of NaN helps nobody; the line says where it began and what was kept."""
    with pytest.raises(ModelError, match=r"training diverged in epoch 0, step \d") as caught:
        train(learning_rate=1e9, head_rate=1000.0, gradient_clip=0.0)
    assert is_expected(caught.value)
    said = str(caught.value)
    assert any(session.id in said for session in data.split.train)
    kept = tmp_path / "run" / "diverged.ckpt"
    assert str(kept) in said
    assert Trained.open(kept).single.module.config.learning_rate == 1e9
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        newest_checkpoint(kept.parent)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("gradient_clip", -1.0),
        ("ema_decay", 1.0),
        ("drop_path", 1.5),
        ("head_rate", 0.0),
        ("unfreeze_epoch", -1),
    ],
)
def test_a_setting_out_of_range_is_wrong_usage(flag, value):
    """Said with its flag before anything is read, also where the network's rules find it."""
    with pytest.raises(UsageError, match=f"--{flag} is {value}"):
        TrainingConfig(**{flag: value})


def test_a_backbone_that_cannot_do_what_was_asked_is_refused_before_the_data(connections, quick):
    """Reading sessions for minutes first would be a waste."""
    config = replace(quick, backbone="dla34", gradient_checkpointing=True)
    with pytest.raises(ModelError, match="'dla34' has no gradient checkpointing"):
        TrainingPipeline(config, connections).check()


@pytest.mark.parametrize("devices", ["0,1", "-1"])
def test_a_cpu_has_no_devices_to_choose_among(quick, devices):
    """Lightning would say so with a traceback, after the data were prepared."""
    with pytest.raises(OptionError, match=f"--devices {devices} chooses among GPUs, and training"):
        placement(replace(quick, accelerator="cpu", devices=devices))


def test_who_chooses_no_backbone_is_told_its_size_and_a_smaller_one(connections, heimdall_here):
    """The default takes gigabytes, and is no better for the sessions of a first run."""
    words = ("train", "--summary", "missing/run.json")
    told = heimdall_here(*words, connections=connections)
    assert told.returncode == 1
    sizes = re.search(r"unset: (\w+), (\d+) MB of weights, ([\d.]+) GB to train\n", told.stdout)
    smaller = re.search(r" 42 sessions\); first try --backbone (\w+), (\d+) MB\n", told.stdout)
    for name, megabytes in (sizes.group(1, 2), smaller.groups()):
        with torch.device("meta"):
            net = LocalizationNet(3, name, None)
        n_bytes = 4 * sum(weights.numel() for weights in net.parameters())
        assert int(megabytes) == round(n_bytes / 1e6)
    assert float(sizes[3]) == pytest.approx(5 * float(sizes[2]) / 1000, abs=0.05)
    assert max(map(len, told.stdout.splitlines())) <= 100
    chosen = heimdall_here(*words, "--backbone", sizes[1], connections=connections)
    assert "backbone" not in chosen.stdout
