"""Training under Lightning: it learns, it logs, and its checkpoints stand alone."""

import numpy as np
import pytest
import torch
from heimdall_models import (
    AveragedWeights,
    DivergenceGuard,
    LocalizationConfig,
    LocalizationModule,
    ModelError,
)
from heimdall_models.trained import Trained
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

NAMES = {
    *("loss", "nll", "error_m_median", "error_m_mean", "error_m_rmse", "error_m_p68"),
    *("error_m_p95", "accuracy_30m", "coverage_68", "coverage_95", "ece", "sigma_saturation"),
    *("nll_mixture", "energy_score", "coverage_hdr_68", "coverage_hdr_95"),
}
STATISTICS = (np.full((3, 128, 1), -80.0), np.full((3, 128, 1), 10.0))


def new_module(region, **options):
    """A small network, always the same one."""
    seed_everything(2, verbose=False)
    options = {"backbone": "test_convnext", "learning_rate": 3e-3, **options}
    return LocalizationModule(LocalizationConfig(**options), region, *STATISTICS)


def trainer(folder, **options):
    """Lightning without its chatter."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"max_epochs": 1, "gradient_clip_val": 1.0, **options},
    )


@pytest.fixture(scope="module")
def trained(region, sessions, tmp_path_factory):
    """A short training run: the module, Lightning's trainer and the best checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    module = new_module(region)
    checkpoints = ModelCheckpoint(folder, monitor="val/loss", save_top_k=1)
    runner = trainer(folder, max_epochs=12, callbacks=[checkpoints])
    untrained = trainer(folder).validate(module, DataLoader(sessions, 16), verbose=False)[0]
    runner.fit(module, DataLoader(sessions, 16, shuffle=True), DataLoader(sessions, 16))
    return module.eval(), runner, checkpoints.best_model_path, untrained


def test_training_brings_loss_and_error_down_in_every_metric_of_the_contract(trained):
    """On levels that tell the place, a dozen epochs must show; dashboards look for the names."""
    _, runner, _, untrained = trained
    after = runner.callback_metrics
    assert after["val/loss"] < untrained["val/loss"] - 0.1
    assert after["val/error_m_median"] < 0.8 * untrained["val/error_m_median"]
    assert set(after) == {f"{stage}/{name}" for stage in ("train", "val") for name in NAMES}


def test_logged_metrics_are_those_of_the_predictions(trained, sessions, region):
    """Computed again from the module's own outputs, all sessions at once."""
    module, runner, _, _ = trained
    features = torch.stack([torch.from_numpy(s["features"]) for s in sessions])
    truth = torch.tensor(region.to_plane([s["position_deg"] for s in sessions])).float()
    with torch.no_grad():
        position, sigma = module(features)
    expected = torch.nn.GaussianNLLLoss(full=True)(position, truth, sigma.square())
    assert runner.callback_metrics["val/loss"] == pytest.approx(expected.item(), abs=1e-4)


def test_testing_logs_under_its_own_prefix(trained, sessions, tmp_path):
    """The test split's figures must not pass for the validation's."""
    figures = trainer(tmp_path).test(trained[0], DataLoader(sessions, 16), verbose=False)[0]
    assert set(figures) == {f"test/{name}" for name in NAMES}


def test_a_checkpoint_loads_back_to_identical_outputs(trained, sessions):
    """From the file alone: network, region, statistics and configuration."""
    module, runner, _, _ = trained
    runner.save_checkpoint(path := f"{runner.default_root_dir}/last.ckpt")
    again = Trained.open(path).single.module
    features = torch.from_numpy(np.stack([s["features"] for s in sessions[:3]]))
    with torch.no_grad():
        for ours, theirs in zip(
            (*module(features), *module.serving_net()(features)),
            (*again(features), *again.serving_net()(features)),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
    assert (again.config, again.region) == (module.config, module.region)


def test_checkpoints_are_tensors_and_text_alone(trained):
    """Anyone may load one without running anyone's code."""
    contents = torch.load(trained[2], weights_only=True)
    assert {"heimdall_models", "state_dict", "optimizer_states"} <= set(contents)


@pytest.mark.slow
def test_bfloat16_trains_as_float32_does(region, sessions, tmp_path):
    """With clipping and averaging, on any CPU: the same losses, to bfloat16's rounding."""
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        callbacks = [AveragedWeights(), DivergenceGuard(tmp_path)]
        runner = trainer(tmp_path, max_epochs=3, precision=precision, callbacks=callbacks)
        runner.fit(new_module(region), DataLoader(sessions, 16), DataLoader(sessions, 16))
        losses.append(float(runner.callback_metrics["val/loss"]))
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_training_without_an_end_is_refused(region, sessions, tmp_path):
    """The learning rate falls towards an end; without one it would never fall."""
    with pytest.raises(ModelError, match="set max_epochs or max_steps"):
        trainer(tmp_path, max_epochs=-1).fit(new_module(region), DataLoader(sessions, 16))


def test_a_session_outside_any_plane_stops_training_by_name(region, sessions, tmp_path):
    """One mistyped coordinate says where it is, instead of spoiling the loss."""
    astray = {**sessions[0], "position_deg": np.array([45.0, 80.0])}
    with pytest.raises(ModelError, match=r"position \(45.0000, 80.0000\) is \d+ km"):
        trainer(tmp_path).fit(new_module(region), DataLoader([astray, *sessions[1:]], 16))
