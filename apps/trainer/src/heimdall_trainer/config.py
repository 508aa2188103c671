"""What `heimdall train` can be told: one frozen value, the same from flags and from Python."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from heimdall_data.catalogue.session import SessionFilter
from heimdall_export.contract import DEFAULT_OPSET, OPSETS
from heimdall_models import LocalizationConfig, ModelError

from heimdall_trainer.errors import UsageError

__all__ = ["TrainingConfig"]

N_SEEDS = 2**32
"""As many as NumPy's generator takes."""
FILTER = Parameter(name="*", negative="", consume_multiple=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train, on what, and what to call the result."""

    epochs: int = 100
    """Most passes over the training split."""
    batch_size: int = 32
    """Sessions in a step, of all processes together, whose number divides it."""
    auto_batch_size: bool = False
    """Double the batch size as long as a step fits into the device's memory. A larger batch is
    another training, with fewer steps: --learning_rate may have to rise with it."""
    learning_rate: Annotated[float, Parameter(name=("--learning-rate", "--lr"))] = 1e-3
    """Peak learning rate of AdamW, of the backbone; see --head_rate."""
    head_rate: float = 5.0
    """How many times faster than the backbone the heads learn."""
    weight_decay: float = 0.05
    """Weight decay of AdamW; norms and biases have none."""
    warmup_fraction: float = 0.1
    """Share of all steps in which the learning rate rises; then it falls along a cosine."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient, longer ones are scaled down; 0 clips nothing."""
    ema_decay: float = 0.999
    """Moving average of the weights, which is validated and exported: share that a step leaves,
    reached after a warm-up; 0 trains without an average."""
    dropout: float = 0.5
    """Share of the backbone's vector that training leaves out at random."""
    drop_path: float = 0.0
    """Stochastic depth: share of the backbone's blocks that training leaves out at random."""
    validation_split: Annotated[float, Parameter(name=("--validation-split", "--val-split"))] = 0.2
    """Fraction of the groups that chooses the checkpoint."""
    test_split: float = 0.1
    """Fraction of the groups that nothing but the final evaluation sees."""
    split_by: Literal["source", "session", "time", "region"] = "source"
    """What a group is: nothing of one group is on two sides of the split."""
    num_workers: int = 0
    """Processes that load batches; 0 loads them in the training process."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    """Lightning's accelerator."""
    devices: str = "auto"
    """Lightning's devices: auto, a count, or a list such as 0,1."""
    num_nodes: int = 1
    """Machines that train together."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices train: each with a whole network (ddp), or with a part of it (fsdp, for
    backbones that one GPU has no room for); auto takes ddp where there are several."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the backbone in training: float32, bfloat16, float16; heads and weights are float32."""
    channels_last: bool = True
    """Keep images with the channels innermost, as fast convolutions want them."""
    compile: bool = False
    """Compile the backbone with torch.compile: takes minutes, and on a CPU gains nothing."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: slower steps, less memory."""
    checkpoint_dir: Path | None = None
    """Where checkpoints go; a folder of the run under the state directory when unset."""
    checkpoint_every_minutes: float = 10.0
    """Minutes of training between checkpoints within an epoch, from which a killed run goes on; 0
    writes none by time."""
    checkpoint_every_steps: int = 0
    """The same in steps; 0 writes none by steps."""
    checkpoint: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")] = ()
    """A checkpoint to resume from or to export; several are exported as one ensemble."""
    export_only: bool = False
    """Export and register --checkpoint without training."""
    resume_training: bool = False
    """Go on from --checkpoint, or from the newest one in --checkpoint-dir."""
    ensemble: int = 1
    """Networks to train on the one split, from different starts, and to merge into one model."""
    experiment_name: str = "heimdall-localization"
    """MLflow experiment."""
    run_name_prefix: str = "rf-localization"
    """MLflow run name before the time."""
    model_name: str = "heimdall-localization-onnx"
    """Name in the MLflow registry."""
    backbone: str = "convnext_large"
    """Any timm backbone."""
    weights: Path | None = None
    """Local file of pretrained backbone weights; none starts from random weights."""
    freeze_backbone: bool = False
    """Train the heads alone, to the end."""
    unfreeze_epoch: int = 0
    """Epoch from which the backbone learns, counted from 0; the heads learn alone before."""
    unfreeze_every: int = 0
    """Epochs from one stage of the backbone to the next, the last stage first; 0 is all at once."""
    features: Literal["mel", "mel+timing"] = "mel"
    """What the model sees: levels alone, or also when each receiver heard the transmission."""
    tilted: bool = False
    """Let ellipses of levels lean; the model file then has a third output, `correlations`."""
    timing_epochs: int = 15
    """Passes over the training split in which the network of arrival times learns, if any."""
    n_receivers: int = 3
    """How many receivers the model listens to."""
    receivers: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ()
    """Which receivers, in channel order; the most often present when not given."""
    only: Annotated[SessionFilter, FILTER] = SessionFilter()  # noqa: RUF009 - frozen
    sample_rate_hz: float | None = None
    """Rate that every recording is brought to; the most common one when unset."""
    patience: int = 10
    """Epochs without a better validation loss before training stops."""
    seed: int = 42
    """Seed of the split, the weights, the order of the data and the augmentation."""
    sigma_min: float = 0.01
    """Smallest standard deviation the model may claim, in units of the region."""
    sigma_max: float = 1.0
    """Largest standard deviation the model may claim, in units of the region."""
    augment: bool = True
    """Vary the training features as the radio channel does."""
    opset: int = DEFAULT_OPSET
    """ONNX operator set of the exported model, 14 (for old runtimes) to 26."""
    quantize: Literal["none", "fp16", "bf16", "int8", "int4", "auto"] = "none"
    """Precision of the exported model; auto takes the fastest that is as good on validation."""
    max_excluded: float = 0.1
    """Largest fraction of unusable sessions that a run puts up with."""
    cache_gb: float = 100.0
    """Most that computed features may take on disk, in GB; what was used longest ago goes."""
    summary: Path | None = None
    """Write the run's summary to this JSON file."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            UsageError: A value is out of its range; the message names it.
        """
        for name in (
            "epochs",
            "batch_size",
            "n_receivers",
            "patience",
            "num_nodes",
            "timing_epochs",
            "ensemble",
        ):
            self._need(name, getattr(self, name) >= 1, "a whole number of at least 1")
        for name in ("num_workers", "seed", "checkpoint_every_steps"):
            self._need(name, getattr(self, name) >= 0, "a whole number of at least 0")
        self._need("seed", self.seed < N_SEEDS, f"less than {N_SEEDS:,}")
        minutes = self.checkpoint_every_minutes
        self._need("checkpoint_every_minutes", 0 <= minutes < math.inf, "0 or a positive number")
        finite = math.isfinite(self.learning_rate)
        self._need("learning_rate", finite and self.learning_rate > 0, "a positive number")
        for name in ("validation_split", "test_split"):
            self._need(name, 0 < getattr(self, name) < 1, "a fraction between 0 and 1")
        total = self.validation_split + self.test_split
        self._need("validation_split", total < 1, "less than 1 together with test_split")
        self._need("max_excluded", 0 <= self.max_excluded <= 1, "a fraction from 0 to 1")
        rate = self.sample_rate_hz
        self._need("sample_rate_hz", rate is None or 0 < rate < math.inf, "a positive rate")
        self._need("cache_gb", 0 < self.cache_gb < math.inf, "a positive number")
        self._need("sigma_min", 0 < self.sigma_min < self.sigma_max, "above 0, below sigma_max")
        self._need("sigma_max", self.sigma_max < math.inf, "finite")
        named = self.receivers
        self._need("receivers", len(set(named)) == len(named), "a list without repetition")
        self._need("gradient_clip", 0 <= self.gradient_clip < math.inf, "0 or a positive number")
        self._need("opset", self.opset in OPSETS, f"from {OPSETS[0]} to {OPSETS[-1]}")
        self._need("ema_decay", 0 <= self.ema_decay < 1, "from 0 to below 1")
        counted = re.fullmatch(r"auto|-1|[1-9]\d*|\d+(,\d*)+", self.devices)
        self._need("devices", counted is not None, "auto, a count, or a list such as 0,1")
        listed = self.devices.rstrip(",").split(",")
        self._need("devices", len(set(listed)) == len(listed), "a list without repetition")
        self._check_names()
        try:
            self.network(self.n_receivers)
        except ModelError as error:
            raise UsageError(f"--{error}") from error
        self._check_checkpoints()

    def _check_names(self) -> None:
        """MLflow and the file system would refuse them too, but after the training."""
        for name, letters, what in (
            ("experiment_name", r"(?!\s*$)[^\x00-\x1f]+", "a name on one line"),
            ("model_name", r"(?!\s*$)[^/:\x00-\x1f]+", "a name on one line without / and :"),
            ("run_name_prefix", r"[^/\x00-\x1f]*", "the begin of a file's name, without /"),
        ):
            self._need(name, re.fullmatch(letters, getattr(self, name)) is not None, what)

    def _check_checkpoints(self) -> None:
        given = len(self.checkpoint)
        if self.export_only:
            self._need("checkpoint", given >= 1, "given with --export_only")
            self._need("ensemble", self.ensemble == 1, "1 with --export_only: give --checkpoint")
        else:
            self._need("checkpoint", given <= 1, "one, or used with --export_only")
        if self.ensemble > 1:
            self._need("checkpoint", not given, "left out: --checkpoint_dir tells what to resume")

    def _need(self, name: str, holds: bool, what: str) -> None:  # noqa: FBT001
        if not holds:
            value = getattr(self, name)
            told = None if value == () else value
            raise UsageError(f"--{name} is {told!r}; it must be {what}")

    def network(self, n_receivers: int) -> LocalizationConfig:
        """What heimdall-models needs to know of this."""
        return LocalizationConfig(
            n_receivers=n_receivers,
            backbone=self.backbone,
            weights=str(self.weights) if self.weights else None,
            freeze_backbone=self.freeze_backbone,
            unfreeze_epoch=self.unfreeze_epoch,
            unfreeze_every=self.unfreeze_every,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            tilted=self.tilted or self.features == "mel+timing",
            dropout=self.dropout,
            drop_path=self.drop_path,
            learning_rate=self.learning_rate,
            head_rate=self.head_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            channels_last=self.channels_last,
            gradient_checkpointing=self.gradient_checkpointing,
            compile=self.compile,
        )

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Fractions of the training, validation and test split."""
        rest = 1 - self.validation_split - self.test_split
        return (rest, self.validation_split, self.test_split)
