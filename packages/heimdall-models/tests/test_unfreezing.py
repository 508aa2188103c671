"""The backbone is unfrozen as configured, and frozen parts do not move."""

import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, LocalizationNet, ModelError
from heimdall_models.module import learning_stages, set_learning, stages_of
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader


@pytest.fixture
def net():
    """Stem and four stages."""
    return LocalizationNet(backbone="test_convnext")


def learning(net):
    """Which parts of the backbone learn."""
    return {
        ".".join(name.split(".")[:2])
        for name, parameter in net.backbone.named_parameters()
        if parameter.requires_grad
    }


@given(st.integers(0, 9), st.integers(0, 5), st.integers(1, 8), st.integers(0, 60))
def test_stages_thaw_one_by_one_and_never_freeze_again(start, every, n_stages, epoch):
    """From none, at the epoch that was named, to all."""
    config = LocalizationConfig(unfreeze_epoch=start, unfreeze_every=every)
    now, then = (learning_stages(config, e, n_stages) for e in (epoch, epoch + 1))
    assert 0 <= now <= then <= n_stages
    assert (now == 0) == (epoch < start)
    assert learning_stages(config, start + every * n_stages, n_stages) == n_stages


def test_the_last_stage_thaws_first(net):
    """What is next to the heads is most particular to the old task."""
    config = LocalizationConfig(unfreeze_epoch=2, unfreeze_every=3)
    seen = []
    for epoch in (0, 2, 5):
        set_learning(net, config, epoch)
        seen.append(learning(net))
    assert seen[0] == set()
    assert seen[1] < seen[2]
    assert seen[1] == {"stages.3", "head.norm"}
    assert not any(name.startswith("stem") for name in seen[2])
    set_learning(net, config, 2 + 3 * 9)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("backbone", ["test_convnext", "test_resnet", "test_vit", "test_byobnet"])
def test_every_parameter_is_in_one_stage(backbone):
    """One that is in none would never thaw."""
    backbone = LocalizationNet(backbone=backbone).backbone
    names = [name for stage in stages_of(backbone) for name in stage]
    assert sorted(names) == sorted(name for name, _ in backbone.named_parameters())
    assert len(stages_of(backbone)) > 1


def test_frozen_stages_keep_their_running_statistics():
    """A batch norm without gradients would still follow the new data."""
    net = LocalizationNet(backbone="test_resnet")
    set_learning(net.train(), LocalizationConfig(unfreeze_every=1), 0)
    before = {name: value.clone() for name, value in net.backbone.named_buffers()}
    net(torch.randn(4, 3, 128, 32))
    moved = {
        name for name, value in net.backbone.named_buffers() if not torch.equal(value, before[name])
    }
    assert moved
    assert all(name.startswith("layer4") for name in moved)


def test_a_strategy_that_waits_for_every_gradient_is_refused(region, sessions, tmp_path):
    """Two processes would wait for each other for ever, or train apart without an error."""
    config = LocalizationConfig(backbone="test_convnext", unfreeze_epoch=1)
    module = LocalizationModule(config, region, [[[-80.0]]] * 3, [[[10.0]]] * 3)
    # As DistributedDataParallel has it, which a process can hold only one of.
    module.find_unused_parameters = False
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    with pytest.raises(ModelError, match="ddp_find_unused_parameters_true"):
        trainer.fit(module, DataLoader(sessions, 16))
