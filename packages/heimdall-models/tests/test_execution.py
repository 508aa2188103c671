"""How the backbone computes may change speed and memory, and nothing that it computes."""

import pytest
import torch
from heimdall_models import LocalizationConfig, LocalizationModule, ModelError, Region
from heimdall_models.trained import Trained
from lightning.pytorch import seed_everything

REGION = Region(45.0, 8.2, 1e5)
STATISTICS = ([[[0.0]]] * 3, [[[1.0]]] * 3)


def new_module(**options):
    """A small network, always the same one."""
    seed_everything(3, verbose=False)
    options = {"backbone": "test_convnext", "dropout": 0.0, **options}
    return LocalizationModule(LocalizationConfig(**options), REGION, *STATISTICS).train()


def answers_and_gradients(module):
    """What one training step computes."""
    features = torch.randn(16, 3, 128, 32, generator=torch.Generator().manual_seed(4))
    position, sigma = module(features)
    (position.square().sum() + sigma.sum()).backward()
    return [position, sigma, *(parameter.grad for parameter in module.parameters())]


@pytest.mark.parametrize("way", ["channels_last", "gradient_checkpointing"])
@pytest.mark.parametrize("backbone", ["test_convnext", "test_resnet"])
def test_the_way_of_computing_changes_no_answer(way, backbone):
    """Outputs and every gradient are those of the plain network, to rounding."""
    plain = answers_and_gradients(new_module(backbone=backbone, channels_last=False))
    module = new_module(**{"backbone": backbone, "channels_last": False, way: True})
    for ours, theirs in zip(answers_and_gradients(module), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_channels_last_is_how_the_kernels_lie():
    """The test above would pass if nothing were done."""
    stem = new_module().net.backbone.stem[0].weight
    assert stem.is_contiguous(memory_format=torch.channels_last)
    assert not stem.is_contiguous()


def test_gradient_checkpointing_keeps_fewer_activations():
    """Memory is what it is for; counted as bytes that the backward pass holds on to."""

    def kept_bytes(**options):
        module, kept = new_module(**options), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (kept.append(tensor.nbytes), tensor)[1], lambda tensor: tensor
        ):
            module(torch.zeros(4, 3, 128, 32))
        return sum(kept)

    assert kept_bytes(gradient_checkpointing=True) < 0.5 * kept_bytes()


def test_a_backbone_without_gradient_checkpointing_is_named():
    """Silently keeping everything would run out of memory an hour later."""
    with pytest.raises(ModelError, match="'dla34' has no gradient checkpointing; turn it off"):
        new_module(backbone="dla34", gradient_checkpointing=True)


@pytest.mark.slow
def test_a_checkpoint_of_a_compiled_network_loads_without_compiling(tmp_path):
    """Weights keep their names: who serves or resumes need not compile, nor do so again."""
    compiled, plain = new_module(compile=True), new_module()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    checkpoint = {"state_dict": compiled.state_dict()}
    compiled.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path := tmp_path / "compiled.ckpt")
    loaded = Trained.open(path).single.module
    assert loaded.config.compile
    assert loaded.net.backbone._compiled_call_impl is None
    compiled.load_state_dict(plain.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiling on a CPU takes a minute")
def test_a_compiled_network_gives_the_same_answers():
    """Run where there is a GPU; see also the benchmark of training."""
    plain, compiled = new_module().cuda(), new_module(compile=True).cuda()
    features = torch.randn(8, 3, 128, 32, device="cuda")
    torch.testing.assert_close(compiled(features), plain(features), rtol=1e-3, atol=1e-3)


def test_compiling_without_a_compiler_is_refused_at_once(monkeypatch):
    """Otherwise torch says so at the first batch, in two hundred lines."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match=r"needs a C\+\+ compiler"):
        new_module(compile=True)
