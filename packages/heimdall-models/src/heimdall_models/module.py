"""Training as Lightning runs it: steps, metrics, optimiser, and checkpoints that stand alone.

Gradient clipping, precision and devices are the Trainer's; averaged weights and the stop at
gradients that are not finite are callbacks, `AveragedWeights` and `DivergenceGuard`.

Random heads send noise into a pretrained backbone. So it can stay frozen until they have settled,
and then be unfrozen from its last stage to its stem, after J. Howard and S. Ruder, "Universal
language model fine-tuning for text classification", ACL 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning
import torch
from timm.models import group_parameters

from heimdall_models.checkpoint import MODEL, model_record
from heimdall_models.epoch import EpochPredictions, metrics_of
from heimdall_models.errors import ModelError
from heimdall_models.execution import arrange
from heimdall_models.levels.maps import levels_of
from heimdall_models.losses import gaussian_nll
from heimdall_models.metrics import sigma_saturation
from heimdall_models.network import LocalizationNet, Regularization
from heimdall_models.optimizer import adamw, warmup_cosine
from heimdall_models.serving import ServingNet, Standardize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from numpy.typing import ArrayLike
    from torch import Tensor, nn

    from heimdall_models.config import LocalizationConfig
    from heimdall_models.network import Answer
    from heimdall_models.region import Region

__all__ = ["LocalizationModule", "learning_stages", "set_learning", "stages_of"]

Batch = dict[str, Any]
STAGES = ("train", "val", "test")
EPOCH_SO_FAR = "heimdall_epoch"
"""Key, in a checkpoint within an epoch, of the predictions so far."""
SHOWN = ("loss", "error_m_median")
"""The metrics beside the progress bar."""


class LocalizationModule(lightning.LightningModule):
    """A network in training, with the region and normalisation that give it meaning.

    Batches are dictionaries with `features`, float32 `(batch, receivers, 128, 32)` in dB, and
    `position_deg`, float64 `(batch, 2)`; `session_id` keeps sessions from counting twice, other
    keys are ignored. Logs the contract's metrics of the whole epoch over all processes under
    `train/`, `val/` and `test/`; `loss` is in nats per axis, in plane units. `sigma_saturation` is
    the share of predictions with a sigma at a bound.

    Args:
        config: Network and optimiser.
        region: Where the model works.
        mean: Of the training features in dB, broadcastable to `(receivers, 128, 32)`.
        std: The same shape.

    Raises:
        ModelError: If the network cannot be built or the statistics cannot be used.
    """

    def __init__(
        self, config: LocalizationConfig, region: Region, mean: ArrayLike, std: ArrayLike
    ) -> None:
        super().__init__()
        self.config = config
        self.region = region
        self.standardize = Standardize(mean, std)
        self.net = LocalizationNet(
            n_receivers=config.n_receivers,
            backbone=config.backbone,
            weights=config.weights,
            freeze_backbone=config.freeze_backbone,
            sigma_min=config.sigma_min,
            sigma_max=config.sigma_max,
            regularization=Regularization(config.dropout, config.drop_path),
            tilted=config.tilted,
        )
        arrange(self.net.backbone, config)
        self.loss_weight = 1.0
        """Weight of this process's loss of a batch. Gradients are means over processes: one with
        fewer sessions of a step than the others counts less, so that all sessions count alike."""
        self._predictions = {stage: EpochPredictions() for stage in STAGES}

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and sigmas in plane units of features in dB."""
        position, sigma, _ = self.net.answer(self.standardize(features)).ellipse
        return position, sigma

    def learn_levels(self, sessions: Iterable[Mapping[str, Any]]) -> None:
        """Learn, before training, the level that every receiver reads of a transmitter anywhere.

        With fewer than 20 sessions in which anything was heard, or a single site, it does nothing.

        Args:
            sessions: All training sessions, not augmented: `features`, `(receivers, 128, 32)` in
                dB, and `position_deg`, `(2,)`.
        """
        levels = levels_of(sessions, self.region)
        if levels is not None:
            self.net.learn_levels(levels, self.standardize.mean, self.standardize.std)

    def serving_net(self) -> ServingNet:
        """The module to export: dB in, degrees and metres out. It shares the weights."""
        return ServingNet(self.standardize, self.net, self.region).eval()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:  # noqa: ARG002 - Lightning's
        """Degrees to plane units, on the CPU because some devices have no float64."""
        units = self.region.to_plane(batch["position_deg"].numpy())
        return {
            "features": batch["features"],
            "target": torch.from_numpy(units).float(),
            "session_id": batch.get("session_id", ()),
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """The loss of one batch."""
        x = self.standardize(batch["features"])
        answer, penalty = self.net.answer_in_training(x, batch["target"])
        return (self._judged("train", batch, answer) + penalty) * self.loss_weight

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """The loss of one batch."""
        return self._judged("val", batch, self.net.answer(self.standardize(batch["features"])))

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's
        """The loss of one batch."""
        return self._judged("test", batch, self.net.answer(self.standardize(batch["features"])))

    def on_train_start(self) -> None:
        """Refuse strategies under which a backbone cannot be unfrozen.

        Raises:
            ModelError: If the strategy waits for the gradients of all parameters.
        """
        unfreezes, model = self.config.unfreezes, self.trainer.strategy.model
        if unfreezes and not getattr(model, "find_unused_parameters", True):
            raise ModelError(
                "a backbone that is unfrozen in training has parameters without gradients, which "
                "this strategy waits for; use Lightning's strategy ddp_find_unused_parameters_true"
            )
        # Training that resumes within an epoch does not start one.
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze the backbone for this epoch."""
        if self.config.unfreezes:
            set_learning(self.net, self.config, self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's `train/` metrics."""
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's `val/` metrics."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the `test/` metrics."""
        self._log_epoch("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and cosine over the Trainer's steps.

        Raises:
            ModelError: If the Trainer has no end to plan for.
        """
        n_steps = self.trainer.estimated_stepping_batches
        if n_steps == float("inf"):
            raise ModelError(
                "the learning rate falls until the end of training, and the Trainer has no end; "
                "set max_epochs or max_steps"
            )
        rate = self.config.learning_rate
        parts = ((self.net.backbone, rate), (self.net.heads, rate * self.config.head_rate))
        optimizer = adamw(parts, self.config.weight_decay)
        schedule = warmup_cosine(optimizer, int(n_steps), self.config.warmup_fraction)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the record that makes the checkpoint self-contained, and the epoch's predictions."""
        checkpoint[MODEL.key] = model_record(self.config, self.region)
        if len(self._predictions["train"]):
            checkpoint[EPOCH_SO_FAR] = self._predictions["train"].state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue an epoch that began before the checkpoint."""
        self._predictions["train"] = EpochPredictions()
        if EPOCH_SO_FAR in checkpoint:
            self._predictions["train"].restore(checkpoint[EPOCH_SO_FAR])

    def _judged(self, stage: str, batch: Batch, answer: Answer) -> Tensor:
        """The loss of a batch; its predictions are kept for the epoch's metrics."""
        judged = (*answer.ellipse, batch["target"])
        self._predictions[stage].add(*judged, session_ids=batch["session_id"])
        return gaussian_nll(*judged)

    def _log_epoch(self, stage: str) -> None:
        """Metrics of all predictions of the epoch; every process logs the same figures."""
        judged = self._predictions[stage].gathered()
        self._predictions[stage] = EpochPredictions()
        bounds = self.config.sigma_min, self.config.sigma_max
        metrics = {
            "loss": float(gaussian_nll(*judged)),
            **metrics_of(self.region, *judged),
            "sigma_saturation": sigma_saturation(judged[1], *bounds),
        }
        for name, value in metrics.items():
            self.log(f"{stage}/{name}", value, prog_bar=name in SHOWN)


def set_learning(net: LocalizationNet, config: LocalizationConfig, epoch: int) -> None:
    """Freeze or unfreeze the stages of the backbone for an epoch.

    A function of the epoch alone, so that a resumed run continues as it would have.
    """
    stages = stages_of(net.backbone)
    n_frozen = len(stages) - learning_stages(config, epoch, len(stages))
    if n_frozen == len(stages):
        net.freeze()
        return
    net.unfreeze()
    parameters = dict(net.backbone.named_parameters())
    for name in (name for stage in stages[:n_frozen] for name in stage):
        parameters[name].requires_grad_(False)  # noqa: FBT003 - torch's stub takes no name
    for module in net.backbone.modules():
        # No dropout and no running statistics where nothing learns.
        learns = [parameter.requires_grad for parameter in module.parameters()]
        if learns and not any(learns):
            module.eval()


def learning_stages(config: LocalizationConfig, epoch: int, n_stages: int) -> int:
    """Number of stages that learn in an epoch, counted from the last."""
    if epoch < config.unfreeze_epoch:
        return 0
    if config.unfreeze_every == 0:
        return n_stages
    return min(1 + (epoch - config.unfreeze_epoch) // config.unfreeze_every, n_stages)


def stages_of(backbone: nn.Module) -> list[list[str]]:
    """Names of the parameters of each stage, from the stem on, as timm groups them."""
    matcher = getattr(backbone, "group_matcher", None)
    parameters = dict(backbone.named_parameters())
    if matcher is None:
        return [list(parameters)]
    groups = group_parameters(backbone, matcher(coarse=True))
    stages: list[list[str]] = []
    for names in (groups[key] for key in sorted(groups)):
        # A lone norm, as after the last blocks, is not a stage of its own.
        if stages and all(parameters[name].ndim == 1 for name in names):
            stages[-1] += names
        else:
            stages.append(list(names))
    return stages
