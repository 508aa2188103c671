"""Training as Lightning runs it: steps, metrics, optimiser, and checkpoints that stand alone.

Gradient clipping, precision and devices are the Trainer's; averaged weights and the stop at
gradients that are not finite are callbacks, `AveragedWeights` and `DivergenceGuard`.

Metrics are of the whole epoch over all processes: a median of batches' medians is not the median,
and a distributed sampler repeats samples so that all processes have as many.

Random heads send noise into a pretrained backbone. So it can stay frozen until they have settled,
and then be unfrozen from its last stage to its stem, after J. Howard and S. Ruder, "Universal
language model fine-tuning for text classification", ACL 2018.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import lightning
import torch
from timm.models import group_parameters
from torch import distributed

from heimdall_models.checkpoint import MODEL, model_record
from heimdall_models.errors import ModelError
from heimdall_models.execution import arrange
from heimdall_models.levels.maps import levels_of
from heimdall_models.losses import gaussian_nll
from heimdall_models.metrics import Posteriors, localization_metrics, sigma_saturation
from heimdall_models.mixtures import Mixture
from heimdall_models.network import LevelsAlone, LocalizationNet
from heimdall_models.optimizer import adamw, warmup_cosine
from heimdall_models.serving import ServingNet, Standardize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from numpy.typing import ArrayLike
    from torch import Tensor, nn

    from heimdall_models.config import LocalizationConfig
    from heimdall_models.network import Answer
    from heimdall_models.region import Region

T = TypeVar("T")
Batch = dict[str, Any]
EPOCH_SO_FAR = "heimdall_epoch"
"""Key, in a checkpoint within an epoch, of the predictions so far."""


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
            dropout=config.dropout,
            drop_path=config.drop_path,
            tilted=config.tilted,
            n_components=config.n_components,
        )
        arrange(self.net.backbone, config)
        self.loss_weight = 1.0
        """Weight of this process's loss of a batch. Gradients are means over processes: one with
        fewer sessions of a step than the others counts less, so that all sessions count alike."""
        self._predictions = {stage: EpochPredictions() for stage in ("train", "val", "test")}

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and sigmas in plane units of features in dB."""
        position, sigma, _ = self.net.answer(self.standardize(features)).ellipse
        return position, sigma

    def learn_levels(self, sessions: Iterable[Mapping[str, Any]]) -> None:
        """Learn, before training, the level that every receiver reads of a transmitter anywhere.

        From all training sessions, not augmented: `features`, `(receivers, 128, 32)` in dB, and
        `position_deg`, `(2,)`. Nothing is learned of a single site, or of fewer than 20 sessions
        in which anything was heard.
        """
        levels = levels_of(sessions, self.region)
        if levels is not None:
            self.net.learn_levels(levels, self.standardize.mean, self.standardize.std)

    def serving_net(self) -> ServingNet:
        """The module to export: dB in, degrees and metres out. It shares the weights."""
        return ServingNet(self.standardize, self.net, self.region).eval()

    def levels_net(self) -> ServingNet:
        """`serving_net` with the posterior by levels alone, without the backbone."""
        return ServingNet(self.standardize, LevelsAlone(self.net), self.region).eval()

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
        """Refuse strategies that wait for the gradients of frozen parameters.

        Raises:
            ModelError: If the backbone is unfrozen later, and this is such a strategy.
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
            ModelError: If the Trainer has no last step.
        """
        n_steps = self.trainer.estimated_stepping_batches
        if n_steps == float("inf"):
            raise ModelError("the Trainer has no last step; set max_epochs or max_steps")
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
        if self._predictions["train"].parts:
            checkpoint[EPOCH_SO_FAR] = self._predictions["train"].state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue an epoch that began before the checkpoint."""
        self._predictions["train"] = EpochPredictions()
        if state := checkpoint.get(EPOCH_SO_FAR):
            # All processes add the same; sessions with ids still count once.
            self._predictions["train"].add(*state["parts"], session_ids=state["session_ids"])

    def _judged(self, stage: str, batch: Batch, answer: Answer) -> Tensor:
        """The loss of a batch; its predictions are kept for the epoch's metrics."""
        judged = (*answer.ellipse, batch["target"])
        kept = (*judged, *(answer.mixture or ()))
        self._predictions[stage].add(*kept, session_ids=batch["session_id"])
        return gaussian_nll(*judged)

    def _log_epoch(self, stage: str) -> None:
        """Metrics of all predictions of the epoch; every process logs the same figures."""
        position, sigma, correlation, target, *mixture = self._predictions[stage].gathered()
        self._predictions[stage] = EpochPredictions()
        judged = (position, sigma, correlation, target)
        metrics = {
            "loss": float(gaussian_nll(*judged)),
            **localization_metrics(
                self.region.to_degrees(position.double().numpy()),
                sigma.double().numpy() * self.region.scale_m,
                self.region.to_degrees(target.double().numpy()),
                correlation.double().numpy(),
                self._posteriors(Mixture(*mixture)) if mixture else None,
            ),
            "sigma_saturation": sigma_saturation(
                sigma, self.config.sigma_min, self.config.sigma_max
            ),
        }
        for name, value in metrics.items():
            self.log(f"{stage}/{name}", value, prog_bar=name in ("loss", "error_m_median"))

    def _posteriors(self, mixture: Mixture) -> Posteriors:
        """A mixture in plane units as metrics take it."""
        weights, means, covariances = (part.double().numpy() for part in mixture)
        file_order = covariances[..., [0, 2, 1]] * self.region.scale_m**2
        return Posteriors(weights, self.region.to_degrees(means), file_order)


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
    for name in (name for stage in stages[:n_frozen] for name in stage):
        net.backbone.get_parameter(name).requires_grad_(False)  # noqa: FBT003 - torch's stub
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
    parameters = dict(backbone.named_parameters())
    matcher = getattr(backbone, "group_matcher", None)
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


@dataclass(slots=True)
class EpochPredictions:
    """Predictions of one epoch as they come, in plane units."""

    parts: tuple[list[Tensor], ...] = ()
    """Batches of position, sigma, correlation and target, and of the parts of a `Mixture`, if any;
    empty before the first batch."""
    session_ids: list[str] = field(default_factory=list)

    def add(self, *predicted: Tensor, session_ids: Sequence[str] = ()) -> None:
        """Keep one batch of predictions, as `parts`: `(batch, 2)`, but correlations `(batch,)`."""
        self.parts = self.parts or tuple([] for _ in predicted)
        for kept, values in zip(self.parts, predicted, strict=True):
            kept.append(values.detach().float())
        self.session_ids.extend(session_ids)

    def gathered(self) -> tuple[Tensor, ...]:
        """Position, sigma, correlation and target of all processes on the CPU, and the mixture.

        `(n, 2)` each, but correlations `(n,)`. Every process must call this, and all get the same.

        Raises:
            ModelError: If a prediction is not finite; it names the session, if there are ids.
        """
        parts, ids = self.state().values()
        if len(ids) != len(parts[0]):
            return tuple(parts)
        finite = (parts[0].isfinite() & parts[1].isfinite()).all(dim=1).tolist()
        if broken := sorted({name for name, fine in zip(ids, finite, strict=True) if not fine}):
            raise ModelError(
                f"predictions for {len(broken)} of {len(ids)} sessions are not finite, the first "
                f"{broken[0]}; check its features"
            )
        first = {session_id: row for row, session_id in reversed(list(enumerate(ids)))}
        rows = torch.tensor(sorted(first.values()))
        return tuple(values[rows] for values in parts)

    def state(self) -> dict[str, Any]:
        """Predictions of all processes so far, for a checkpoint in the middle of an epoch.

        Every process must call this, and all get the same.
        """
        mine = [torch.cat(values).cpu() for values in self.parts]
        parts, ids = zip(*of_all_processes((mine, self.session_ids)), strict=True)
        together = [torch.cat(part) for part in zip(*parts, strict=True)]
        return {"parts": together, "session_ids": [name for own in ids for name in own]}


def of_all_processes(mine: T) -> list[T]:
    """The values of all processes that train together; every one of them must call this."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    everyone = [mine] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone
